package control_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

func TestFailedCreateLeavesATombstone(t *testing.T) {
	for name, tt := range map[string]struct {
		failure error
		code    stacyvm.Code
		detail  string
	}{
		"image":    {stacyvm.Errorf(stacyvm.CodeNotFound, "image does not exist"), stacyvm.CodeNotFound, "image does not exist"},
		"disk":     {stacyvm.Errorf(stacyvm.CodeStorageFull, "no space"), stacyvm.CodeStorageFull, "no space"},
		"engine":   {errors.New("runsc: /run/x: exit 1"), stacyvm.CodeInternal, "could not be started"},
		"too slow": {context.DeadlineExceeded, stacyvm.CodeUnavailable, "within 1m0s"},
		"step": {
			stacyvm.Wrap(stacyvm.CodeUnavailable, context.DeadlineExceeded, "its start took long"),
			stacyvm.CodeUnavailable, "its start took long",
		},
		"step elsewhere": {
			stacyvm.Errorf(stacyvm.CodeTimeout, "its image took long"), stacyvm.CodeUnavailable, "its image took long",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &rig{controltest.NewRig(t, func(c *control.Config) { c.Defaults.MaxSandboxes = 1 })}
			var id stacyvm.SandboxID
			r.Machine.BeforeCreate = func(_ context.Context, ref stacyvm.Ref) error { id = ref.ID; return tt.failure }
			_, _, err := r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{})
			wantCode(t, err, tt.code)
			if row := controltest.Row(t, r.Store, id); row.State != stacyvm.StateDestroyed || row.Reason != "create_failed" ||
				!strings.Contains(row.Detail, tt.detail) {
				t.Errorf("the row is %s, %s, %q", row.State, row.Reason, row.Detail)
			}
			lines := r.Operations(t, store.OperationFilter{Action: "sandbox.spawn", Sandbox: id})
			if len(lines) != 2 || lines[0].Status != "failed" || lines[1].Status != "ok" {
				t.Errorf("audit: %+v", lines)
			}
			r.Machine.BeforeCreate = nil
			r.MustCreate(t) // the reservation is free again
		})
	}
}

// TestCreateFollowsItsWorker: a worker that starts anew in the middle takes what is being made for
// it over, with a new epoch.
func TestCreateFollowsItsWorker(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	session := "session-1"
	again := func(ctx context.Context) {
		session += "'"
		starting := controltest.Beat(session, true)
		if _, err := r.Heartbeat(controltest.AsWorker(ctx, self, auth.ScopeHeartbeat), starting); err != nil {
			t.Error(err)
		}
	}
	refs := 0
	r.Machine.BeforeCreate = func(ctx context.Context, ref stacyvm.Ref) error {
		if refs++; refs < 3 { // the worker's own word for a fence that is not the newest
			again(ctx)
			return stacyvm.Errorf(stacyvm.CodeStaleEpoch, "the sandbox has a newer owner")
		}
		return nil
	}
	made := r.MustCreate(t)
	row := controltest.Row(t, r.Store, made.ID)
	if runtime, ok := r.Machine.Runtime(made.ID); !ok || row.State != stacyvm.StateRunning || runtime.Fence != row.Fence || row.Fence.Epoch != 3 {
		t.Errorf("the runtime is %+v, the row %+v", runtime, row)
	}
	refs = -10 // always
	_, _, err := r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{})
	wantCode(t, err, stacyvm.CodeStaleEpoch)
	if creates, _, present := r.Machine.Counts(); creates != 1 || present != 1 {
		t.Errorf("%d were made, %d are there", creates, present)
	}
}

// TestFenceRisesBeforeTheConfirmation: a worker that starts anew after it has answered does not
// take the sandbox from its caller, whether reconciliation has found it by then or not.
func TestFenceRisesBeforeTheConfirmation(t *testing.T) {
	for name, adopted := range map[string]bool{"still creating": false, "adopted": true} {
		t.Run(name, func(t *testing.T) {
			r := &rig{controltest.NewRig(t, nil)}
			r.Machine.AfterCreate = func(ctx context.Context, ref stacyvm.Ref) error {
				r.Machine.AfterCreate = nil
				if _, err := r.Heartbeat(controltest.AsWorker(ctx, self, auth.ScopeHeartbeat), controltest.Beat("session-2", true)); err != nil {
					t.Error(err)
				}
				if adopted {
					row := controltest.Row(t, r.Store, ref.ID)
					controltest.Update(t, r.Store, func(tx store.Tx) error {
						_, err := tx.Sandboxes().Apply(ctx, ref.ID, row.Fence, store.Change{State: stacyvm.StateRunning})
						return err
					})
				}
				return nil
			}
			key := control.Idempotency{Key: "k", BodyHash: "h"}
			made, _, err := r.Create(r.Ctx, control.CreateRequest{}, key)
			if err != nil || made.State != stacyvm.StateRunning || made.Fence.Epoch != 2 {
				t.Fatalf("the caller got %+v, %v", made, err)
			}
			if again, replayed, err := r.Create(r.Ctx, control.CreateRequest{}, key); err != nil || !replayed || again.ID != made.ID {
				t.Errorf("the key gives %s, %v, %v", again.ID, replayed, err)
			}
			if creates, destroys, present := r.Machine.Counts(); creates != 1 || destroys != 0 || present != 1 {
				t.Errorf("%d made, %d destroyed, %d there", creates, destroys, present)
			}
		})
	}
}

// TestCreateThatLosesItsOwner: the fence rises again and again; the caller gets an error, and no
// sandbox that it does not know of comes to life.
func TestCreateThatLosesItsOwner(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	session := "session-1"
	var id stacyvm.SandboxID
	r.Machine.AfterCreate = func(ctx context.Context, ref stacyvm.Ref) error {
		id = ref.ID
		session += "'"
		_, err := r.Heartbeat(controltest.AsWorker(ctx, self, auth.ScopeHeartbeat), controltest.Beat(session, true))
		return err
	}
	_, _, err := r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{})
	wantCode(t, err, stacyvm.CodeStaleEpoch)
	if row := controltest.Row(t, r.Store, id); row.Desired != stacyvm.DesiredDestroyed {
		t.Errorf("the row is %s, wanted %s", row.State, row.Desired)
	}
}

// TestAnothersClaimIsLeftAlone: a create that ends late neither answers nor frees a key that
// another sandbox has taken meanwhile.
func TestAnothersClaimIsLeftAlone(t *testing.T) {
	for name, failure := range map[string]error{"finish": nil, "abandon": errors.New("broke")} {
		t.Run(name, func(t *testing.T) {
			r := &rig{controltest.NewRig(t, nil)}
			key := control.Idempotency{Key: "k", BodyHash: "h"}
			claim := store.IdempotencyRecord{Scope: `"" "ann" ""`, Key: "k", BodyHash: "h", Sandbox: stacyvm.NewSandboxID()}
			r.Machine.AfterCreate = func(ctx context.Context, ref stacyvm.Ref) error {
				mine := claim
				mine.Sandbox = ref.ID
				controltest.Update(t, r.Store, func(tx store.Tx) error {
					if err := tx.Idempotency().Abandon(ctx, mine); err != nil {
						return err
					}
					known, err := tx.Idempotency().Begin(ctx, claim)
					if known != nil {
						t.Errorf("the claim was not where this test looked: %+v", known)
					}
					return err
				})
				return failure
			}
			made, _, err := r.Create(r.Ctx, control.CreateRequest{}, key)
			if failure == nil && (err != nil || made.State != stacyvm.StateRunning) {
				t.Errorf("state %s, %v", made.State, err)
			}
			controltest.Update(t, r.Store, func(tx store.Tx) error {
				known, err := tx.Idempotency().Begin(r.Ctx, store.IdempotencyRecord{Scope: claim.Scope, Key: "k", BodyHash: "other"})
				if known == nil || known.Done || known.Sandbox != claim.Sandbox {
					t.Errorf("the other's claim is %+v", known)
				}
				return err
			})
		})
	}
}

func TestFailedCreateWithALostAnswerIsUndone(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	r.Machine.AfterCreate = func(context.Context, stacyvm.Ref) error {
		return stacyvm.Errorf(stacyvm.CodeUnavailable, "connection lost")
	}
	_, _, err := r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{})
	wantCode(t, err, stacyvm.CodeUnavailable)
	if _, destroys, present := r.Machine.Counts(); present != 0 || destroys != 1 {
		t.Errorf("%d runtimes are left, %d destroyed", present, destroys)
	}
}

func TestFailedCreateWhoseLeftoversStayIsAnError(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	var id stacyvm.SandboxID
	r.Machine.AfterCreate = func(_ context.Context, ref stacyvm.Ref) error { id = ref.ID; return errors.New("broke") }
	r.Machine.BeforeDestroy = func(context.Context, stacyvm.Ref) error { return errors.New("busy") }
	_, _, err := r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{})
	wantCode(t, err, stacyvm.CodeInternal)
	row := controltest.Row(t, r.Store, id)
	if row.State != stacyvm.StateError || row.Reason != "create_failed" || row.Desired != stacyvm.DesiredDestroyed {
		t.Errorf("the row is %s, %s, wanted %s", row.State, row.Reason, row.Desired)
	}
}

func TestCreateOutlivesItsCaller(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	ctx, cancel := context.WithCancel(r.Ctx)
	r.Machine.BeforeCreate = func(making context.Context, _ stacyvm.Ref) error {
		cancel()
		return making.Err()
	}
	sandbox, _, err := r.Create(ctx, control.CreateRequest{}, control.Idempotency{})
	if err != nil || sandbox.State != stacyvm.StateRunning {
		t.Errorf("state %s, %v", sandbox.State, err)
	}
}

func TestDestroyDuringCreate(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	var id stacyvm.SandboxID
	r.Machine.AfterCreate = func(_ context.Context, ref stacyvm.Ref) error {
		id = ref.ID
		r.Machine.AfterCreate = nil
		return r.Destroy(r.Ctx, ref.ID)
	}
	_, _, err := r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{})
	wantCode(t, err, stacyvm.CodeConflict)
	if row := controltest.Row(t, r.Store, id); row.State != stacyvm.StateDestroyed {
		t.Errorf("the row is %s", row.State)
	}

	// A destroy that comes before the runtime is made must not leave it behind either.
	r.Machine.BeforeCreate = func(_ context.Context, ref stacyvm.Ref) error {
		id = ref.ID
		r.Machine.BeforeCreate = nil
		return r.Destroy(r.Ctx, ref.ID)
	}
	_, _, err = r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{})
	wantCode(t, err, stacyvm.CodeConflict)
	if _, _, present := r.Machine.Counts(); present != 0 {
		t.Errorf("%d runtimes are left", present)
	}
}

func TestIdempotencyKeys(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	key := control.Idempotency{Key: "k-1", Route: "POST /sandboxes", BodyHash: "h1"}
	create := func(ctx context.Context, key control.Idempotency) (stacyvm.Sandbox, bool, error) {
		return r.Create(ctx, control.CreateRequest{}, key)
	}
	first, replayed, err := create(r.Ctx, key)
	if err != nil || replayed {
		t.Fatal(err, replayed)
	}
	again, replayed, err := create(r.Ctx, key)
	if err != nil || !replayed || again.ID != first.ID || !again.ExpiresAt.Equal(first.ExpiresAt) || again.State != stacyvm.StateRunning {
		t.Errorf("the replay is %+v, %v, %v", again, replayed, err)
	}
	other := key
	other.BodyHash = "h2"
	_, _, err = create(r.Ctx, other)
	wantCode(t, err, stacyvm.CodeKeyReused)

	fresh := map[string]struct {
		ctx context.Context
		key control.Idempotency
	}{
		"another caller": {controltest.As(t.Context(), "bob", ""), key},
		"another tenant": {controltest.As(t.Context(), "ann", "acme"), key},
		"another route":  {r.Ctx, control.Idempotency{Key: "k-1", Route: "other", BodyHash: "h1"}},
		"no key":         {r.Ctx, control.Idempotency{}},
	}
	for name, tt := range fresh {
		if sandbox, replayed, err := create(tt.ctx, tt.key); err != nil || replayed || sandbox.ID == first.ID {
			t.Errorf("%s: %s, %v, %v", name, sandbox.ID, replayed, err)
		}
	}
	for _, bad := range []string{" ", "a b", "ü", "a\n", strings.Repeat("k", 256)} {
		_, _, err := create(r.Ctx, control.Idempotency{Key: bad})
		wantCode(t, err, stacyvm.CodeInvalid)
	}
}

func TestIdempotencyKeyOfAFailedCreateIsFree(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	key := control.Idempotency{Key: "k", BodyHash: "h"}
	r.Machine.BeforeCreate = func(context.Context, stacyvm.Ref) error { return errors.New("broke") }
	_, _, err := r.Create(r.Ctx, control.CreateRequest{}, key)
	wantCode(t, err, stacyvm.CodeInternal)
	r.Machine.BeforeCreate = nil
	if _, replayed, err := r.Create(r.Ctx, control.CreateRequest{}, key); err != nil || replayed {
		t.Errorf("%v, %v", replayed, err)
	}
	r = &rig{controltest.NewRig(t, func(c *control.Config) { c.Defaults.MaxSandboxes = 1 })}
	sandbox := r.MustCreate(t)
	_, _, err = r.Create(r.Ctx, control.CreateRequest{}, key)
	wantCode(t, err, stacyvm.CodeLimit)
	wantCode(t, r.Destroy(r.Ctx, sandbox.ID), "")
	if _, replayed, err := r.Create(r.Ctx, control.CreateRequest{}, key); err != nil || replayed {
		t.Errorf("a refused create keeps its key: %v, %v", replayed, err)
	}
}

func TestIdempotencyKeyInFlight(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	key := control.Idempotency{Key: "k", BodyHash: "h"}
	reached, release := make(chan struct{}), make(chan struct{})
	r.Machine.BeforeCreate = func(context.Context, stacyvm.Ref) error {
		close(reached)
		<-release
		return nil
	}
	var wait sync.WaitGroup
	var first stacyvm.Sandbox
	wait.Go(func() {
		var err error
		if first, _, err = r.Create(r.Ctx, control.CreateRequest{}, key); err != nil {
			t.Error(err)
		}
	})
	<-reached
	_, _, err := r.Create(r.Ctx, control.CreateRequest{}, key)
	wantCode(t, err, stacyvm.CodeInProgress)
	close(release)
	wait.Wait()
	again, replayed, err := r.Create(r.Ctx, control.CreateRequest{}, key)
	if err != nil || !replayed || again.ID != first.ID {
		t.Errorf("%s, %v, %v; want the replay of %s", again.ID, replayed, err, first.ID)
	}
	if creates, _, _ := r.Machine.Counts(); creates != 1 {
		t.Errorf("%d runtimes were made", creates)
	}
}

func TestManyRetriesMakeOneSandbox(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	key := control.Idempotency{Key: "k", BodyHash: "h"}
	var wait sync.WaitGroup
	var mu sync.Mutex
	ids := map[stacyvm.SandboxID]bool{}
	for range 50 {
		wait.Go(func() {
			for {
				sandbox, _, err := r.Create(r.Ctx, control.CreateRequest{}, key)
				if stacyvm.CodeOf(err) == stacyvm.CodeInProgress {
					continue
				}
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				ids[sandbox.ID] = true
				mu.Unlock()
				return
			}
		})
	}
	wait.Wait()
	if creates, _, _ := r.Machine.Counts(); creates != 1 || len(ids) != 1 {
		t.Errorf("%d runtimes, %d ids", creates, len(ids))
	}
}

// TestExtendDuringCreate: the worker learns of it with the confirmation.
func TestExtendDuringCreate(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	r.Machine.AfterCreate = func(_ context.Context, ref stacyvm.Ref) error {
		_, err := r.Extend(r.Ctx, ref.ID, 2*time.Hour)
		return err
	}
	sandbox := r.MustCreate(t)
	runtime, _ := r.Machine.Runtime(sandbox.ID)
	if !runtime.Request.ExpiresAt.Equal(sandbox.ExpiresAt) || time.Until(sandbox.ExpiresAt) < time.Hour {
		t.Errorf("it expires at %s, and its worker was told %s", sandbox.ExpiresAt, runtime.Request.ExpiresAt)
	}
}
