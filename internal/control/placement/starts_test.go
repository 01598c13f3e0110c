package placement_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// startRig is a rig in a bubble whose worker starts two sandboxes at a time, each in 50 s: little
// less than it may take.
type startRig struct {
	*rig
	mu      sync.Mutex
	began   []stacyvm.SandboxID // in the order of their starts
	running int
	most    int
}

const startTakes = 50 * time.Second

func inStartRig(t *testing.T, test func(*testing.T, *startRig)) {
	synctest.Test(t, func(t *testing.T) {
		r := &startRig{rig: &rig{controltest.NewRigOn(t, controltest.OpenSQLite(t), nil)}}
		controltest.Update(t, r.Store, func(tx store.Tx) error {
			w := stacyvm.Worker{ID: self, Status: "online", Session: "session-1", Providers: []string{"mock"}}
			w.Capacity.ParallelCreates = 2
			_, err := tx.Workers().Save(t.Context(), w)
			return err
		})
		r.Machine.BeforeCreate = func(ctx context.Context, ref stacyvm.Ref) error {
			r.mu.Lock()
			r.began = append(r.began, ref.ID)
			r.running++
			r.most = max(r.most, r.running)
			r.mu.Unlock()
			defer func() { r.mu.Lock(); r.running--; r.mu.Unlock() }()
			select {
			case <-time.After(startTakes):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		test(t, r)
	})
}

// creating is a create under way.
type creating struct {
	id     stacyvm.SandboxID
	cancel context.CancelFunc
	done   chan error
}

// told is longer than a create may wait before its row says so.
const told = 600 * time.Millisecond

// join begins a create and returns when it is started, or when its row says that it waits, with its
// id.
func (r *startRig) join(t *testing.T) creating {
	t.Helper()
	c := r.begin(t)
	time.Sleep(told)
	return c
}

// begin begins a create and returns when it has its row, with its id.
func (r *startRig) begin(t *testing.T) creating {
	t.Helper()
	known := r.ids(t)
	ctx, cancel := context.WithCancel(r.Ctx)
	c := creating{cancel: cancel, done: make(chan error, 1)}
	go func() {
		_, _, err := r.Create(ctx, control.CreateRequest{}, control.Idempotency{})
		c.done <- err
	}()
	synctest.Wait()
	for _, id := range r.ids(t) {
		if !slices.Contains(known, id) {
			c.id = id
		}
	}
	if c.id == "" {
		t.Fatal("no row of the create")
	}
	return c
}

func (r *startRig) ids(t *testing.T) (ids []stacyvm.SandboxID) {
	t.Helper()
	list, _, err := r.Sandboxes(r.Ctx, control.SandboxPage{Limit: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, sandbox := range list {
		ids = append(ids, sandbox.ID)
	}
	return ids
}

// waits checks what a sandbox says of its waiting; place 0: it does not wait.
func (r *startRig) waits(t *testing.T, id stacyvm.SandboxID, place int) {
	t.Helper()
	sandbox, err := r.Sandbox(r.Ctx, id)
	reason := stacyvm.Reason("")
	if place > 0 {
		reason = stacyvm.ReasonQueued
	}
	if err != nil || sandbox.State != stacyvm.StateCreating || sandbox.Reason != reason || sandbox.QueuePlace != place {
		t.Errorf("%s is %s (%q), place %d, %v; want place %d", id, sandbox.State, sandbox.Reason, sandbox.QueuePlace, err, place)
	}
}

// TestCreatesAreStartedInTheirOrder: two at a time, first come first; the time of each counts from
// its turn on, so that the last one, which waits far longer than a create may take, is made too.
// All the while no row looks abandoned.
func TestCreatesAreStartedInTheirOrder(t *testing.T) {
	inStartRig(t, func(t *testing.T, r *startRig) {
		began := time.Now()
		var all []creating
		var order []stacyvm.SandboxID
		for i := range 9 {
			c := r.join(t)
			r.waits(t, c.id, max(0, i-1))
			all, order = append(all, c), append(order, c.id)
		}
		synctest.Wait()
		oldest := time.Duration(0)
		for time.Since(began) < 4*startTakes {
			time.Sleep(time.Second)
			for _, id := range r.ids(t) {
				if row := controltest.Row(t, r.Store, id); row.State == stacyvm.StateCreating {
					oldest = max(oldest, time.Since(row.UpdatedAt))
				}
			}
		}
		for _, c := range all {
			wantCode(t, <-c.done, "")
		}
		for pair := range slices.Chunk(r.began[:8], 2) { // two that end at one moment make room for two
			if slices.Index(order, pair[0]) > slices.Index(order, pair[1]) {
				slices.Reverse(pair)
			}
		}
		if took := time.Since(began); took > 5*startTakes+time.Second || r.most != 2 || !slices.Equal(r.began, order) {
			t.Errorf("it took %s, %d at a time; started %v, want %v", took, r.most, r.began, order)
		}
		if oldest >= stacyvm.CreateAbandonedAfter {
			t.Errorf("a row that waited had not changed for %s", oldest)
		}
		places := map[stacyvm.SandboxID]any{}
		controltest.Update(t, r.Store, func(tx store.Tx) error {
			events, err := tx.Events().List(t.Context(), store.EventFilter{Limit: 1000})
			for _, n := range events {
				if n.Kind == stacyvm.KindSandboxQueued {
					places[n.SandboxID] = n.Data["place"]
				}
			}
			return err
		})
		if len(places) != 7 || places[order[2]] != float64(1) || places[order[8]] != float64(7) {
			t.Errorf("told of the places %v", places)
		}
	})
}

// TestWhoLeavesTheLine: a caller that hangs up, a sandbox that is destroyed and a server that
// stops end the waiting at once; those behind move up, and the worker hears of none of them.
func TestWhoLeavesTheLine(t *testing.T) {
	inStartRig(t, func(t *testing.T, r *startRig) {
		first, second := r.join(t), r.join(t)
		hangsUp, destroyed, stays, stopped := r.join(t), r.join(t), r.join(t), r.join(t)
		began := time.Now()
		hangsUp.cancel()
		wantCode(t, <-hangsUp.done, stacyvm.CodeUnavailable)
		r.waits(t, destroyed.id, 1)
		wantCode(t, r.Destroy(r.Ctx, destroyed.id), "")
		wantCode(t, <-destroyed.done, stacyvm.CodeConflict)
		r.waits(t, stays.id, 1)
		r.waits(t, stopped.id, 2)
		if time.Since(began) > time.Second {
			t.Errorf("leaving took %s", time.Since(began))
		}
		wantCode(t, <-first.done, "")
		wantCode(t, <-second.done, "")
		synctest.Wait()
		r.waits(t, stays.id, 0)
		third := r.join(t) // one of the two that are started beside it waits on
		r.Drain()
		wantCode(t, <-third.done, stacyvm.CodeUnavailable)
		late := make(chan error, 1)
		go func() { _, _, err := r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{}); late <- err }()
		wantCode(t, <-late, stacyvm.CodeUnavailable)
		wantCode(t, <-stays.done, "")
		wantCode(t, <-stopped.done, "")
		for _, c := range []creating{hangsUp, destroyed, third} {
			if row := controltest.Row(t, r.Store, c.id); row.State != stacyvm.StateDestroyed || slices.Contains(r.began, c.id) {
				t.Errorf("%s is %s; started were %v", c.id, row.State, r.began)
			}
		}
		err := r.Store.View(t.Context(), func(tx store.Tx) error {
			failed, err := tx.Events().Recent(t.Context(), store.RecentFilter{Kinds: []stacyvm.Kind{stacyvm.KindProviderFailed}, Limit: 10})
			if len(failed) > 0 {
				t.Errorf("of those who left is told %+v", failed)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestAShortWaitIsNotWritten: of a create that waits for a moment its row and subscribers are not
// told, and a destroy finds it all the same.
func TestAShortWaitIsNotWritten(t *testing.T) {
	inStartRig(t, func(t *testing.T, r *startRig) {
		all := []creating{r.join(t), r.join(t)}
		time.Sleep(startTakes - 2*told - told/2) // until half a told before the first one ends
		short, destroyed := r.begin(t), r.begin(t)
		wantCode(t, r.Destroy(r.Ctx, destroyed.id), "")
		wantCode(t, <-destroyed.done, stacyvm.CodeConflict)
		for _, c := range append(all, short) {
			wantCode(t, <-c.done, "")
		}
		err := r.Store.View(t.Context(), func(tx store.Tx) error {
			queued, err := tx.Events().Recent(t.Context(), store.RecentFilter{Kinds: []stacyvm.Kind{stacyvm.KindSandboxQueued}})
			if len(queued) > 0 {
				t.Errorf("told %+v", queued)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
}

// TestDestroysDoNotWait: while creates fill the line, another sandbox is destroyed at once.
func TestDestroysDoNotWait(t *testing.T) {
	inStartRig(t, func(t *testing.T, r *startRig) {
		there := r.join(t)
		wantCode(t, <-there.done, "")
		var all []creating
		for range 6 {
			all = append(all, r.join(t))
		}
		began := time.Now()
		wantCode(t, r.Destroy(r.Ctx, there.id), "")
		if time.Since(began) > time.Second {
			t.Errorf("it took %s", time.Since(began))
		}
		for _, c := range all {
			wantCode(t, <-c.done, "")
		}
	})
}

// TestATurnUnderANewFence: the worker starts anew while a create waits; the create is made for the
// new owner.
func TestATurnUnderANewFence(t *testing.T) {
	inStartRig(t, func(t *testing.T, r *startRig) {
		all := []creating{r.join(t), r.join(t), r.join(t)}
		row := controltest.Row(t, r.Store, all[2].id)
		controltest.Update(t, r.Store, func(tx store.Tx) error {
			if err := tx.Leases().Release(r.Ctx, string(row.ID), self, row.Fence.Epoch); err != nil {
				return err
			}
			_, err := tx.Leases().Acquire(r.Ctx, store.LeaseRequest{
				Resource: string(row.ID), Type: "sandbox", Holder: self, Session: "session-1", TTL: time.Hour, Grace: stacyvm.LeaseGrace,
			})
			return err
		})
		for _, c := range all {
			wantCode(t, <-c.done, "")
		}
		if now := controltest.Row(t, r.Store, row.ID); now.Fence.Compare(row.Fence) <= 0 || now.State != stacyvm.StateRunning {
			t.Errorf("the row is %s with %+v, before %+v", now.State, now.Fence, row.Fence)
		}
	})
}

// TestShortLifeOnABusyMachine: the time of a sandbox counts from the moment when it runs, however
// long it was waited for.
func TestShortLifeOnABusyMachine(t *testing.T) {
	inStartRig(t, func(t *testing.T, r *startRig) {
		all := []creating{r.join(t), r.join(t)}
		ttl := 10 * time.Second
		made, _, err := r.Create(r.Ctx, control.CreateRequest{TTL: &ttl}, control.Idempotency{})
		if left := time.Until(made.ExpiresAt); err != nil || made.State != stacyvm.StateRunning || left < ttl-time.Second || left > ttl {
			t.Errorf("it is %s for %s more, %v", made.State, left, err)
		}
		runtime, _ := r.Machine.Runtime(made.ID)
		if told := runtime.Request.ExpiresAt; made.ExpiresAt.Sub(told).Abs() > stacyvm.ExpiryDrift {
			t.Errorf("it expires at %s, and its worker was told %s", made.ExpiresAt, told)
		}
		if _, err := r.Extend(r.Ctx, made.ID, time.Minute); err != nil {
			t.Error(err)
		}
		for _, c := range all {
			wantCode(t, <-c.done, "")
		}
	})
}
