package control_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(controltest.OnEachDatabase(m)) }

// rig adds to controltest's what these tests share.
type rig struct{ *controltest.Rig }

const self = controltest.Self

var wantCode = controltest.WantCode

func TestCreateFillsAndKeepsEverything(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	ttl := time.Hour
	sandbox, replayed, err := r.Create(controltest.As(t.Context(), "ann", "acme"), control.CreateRequest{
		TTL: &ttl, MemoryMB: 256, Metadata: map[string]string{"k": "v"}, Env: map[string]string{"A": "1"},
	}, control.Idempotency{})
	if err != nil || replayed {
		t.Fatal(err, replayed)
	}
	runtime, ok := r.Machine.Runtime(sandbox.ID)
	switch {
	case !sandbox.ID.Valid() || sandbox.State != stacyvm.StateRunning || sandbox.OwnerID != "ann" || sandbox.TenantID != "acme":
		t.Errorf("unexpected sandbox %+v", sandbox)
	case sandbox.Spec.MemoryMB != 256 || sandbox.Spec.DiskMB != 1024 || sandbox.Spec.Network != stacyvm.NetworkNone || sandbox.Image != "host":
		t.Errorf("unexpected spec %+v", sandbox.Spec)
	case sandbox.ExpiresAt.Sub(sandbox.UpdatedAt) != time.Hour: // from the moment when it runs
		t.Errorf("lives %s", sandbox.ExpiresAt.Sub(sandbox.UpdatedAt))
	case sandbox.RuntimeID == "" || len(sandbox.Unenforced) != 1 || sandbox.WorkerID != controltest.Self || sandbox.Fence.Epoch == 0:
		t.Errorf("what the worker said is missing: %+v", sandbox)
	case !ok || runtime.Fence != sandbox.Fence || runtime.Request.OwnerID != "ann" || runtime.Request.TenantID != "acme" || runtime.Cluster == "":
		t.Errorf("the worker was told %+v", runtime)
	}
	lines := r.Operations(t, store.OperationFilter{Action: "sandbox.spawn"})
	if len(lines) != 1 || lines[0].Status != "ok" || lines[0].Actor != "ann" || lines[0].SandboxID != sandbox.ID {
		t.Errorf("audit: %+v", lines)
	}
}

func TestCreateRefusesWrongFields(t *testing.T) {
	r := &rig{controltest.NewRig(t, func(c *control.Config) { c.Defaults.MaxTTL = time.Hour })}
	ttl := func(d time.Duration) *time.Duration { return &d }
	many := map[string]string{}
	for i := range 65 {
		many[strings.Repeat("k", i+1)] = ""
	}
	tests := map[string]struct {
		request control.CreateRequest
		code    stacyvm.Code
		field   string
	}{
		"ttl of zero":         {control.CreateRequest{TTL: ttl(0)}, stacyvm.CodeInvalid, "ttl"},
		"negative ttl":        {control.CreateRequest{TTL: ttl(-time.Second)}, stacyvm.CodeInvalid, "ttl"},
		"ttl over the limit":  {control.CreateRequest{TTL: ttl(time.Hour + 1)}, stacyvm.CodeLimit, "ttl"},
		"negative memory":     {control.CreateRequest{MemoryMB: -1}, stacyvm.CodeInvalid, "memory_mb"},
		"too little memory":   {control.CreateRequest{MemoryMB: 63}, stacyvm.CodeInvalid, "memory_mb"},
		"too much memory":     {control.CreateRequest{MemoryMB: 1<<20 + 1}, stacyvm.CodeInvalid, "memory_mb"},
		"too many cpus":       {control.CreateRequest{VCPUs: 257}, stacyvm.CodeInvalid, "vcpus"},
		"negative cpus":       {control.CreateRequest{VCPUs: -1}, stacyvm.CodeInvalid, "vcpus"},
		"too little disk":     {control.CreateRequest{DiskMB: 1}, stacyvm.CodeInvalid, "disk_mb"},
		"image with space":    {control.CreateRequest{Image: "a b"}, stacyvm.CodeInvalid, "image"},
		"long image":          {control.CreateRequest{Image: strings.Repeat("i", 256)}, stacyvm.CodeInvalid, "image"},
		"owner with slash":    {control.CreateRequest{OwnerID: "a/b"}, stacyvm.CodeInvalid, "owner_id"},
		"owner with newline":  {control.CreateRequest{OwnerID: "a\nb"}, stacyvm.CodeInvalid, "owner_id"},
		"long owner":          {control.CreateRequest{OwnerID: strings.Repeat("o", 129)}, stacyvm.CodeInvalid, "owner_id"},
		"much metadata":       {control.CreateRequest{Metadata: many}, stacyvm.CodeInvalid, "metadata"},
		"long metadata":       {control.CreateRequest{Metadata: map[string]string{"k": strings.Repeat("v", 2049)}}, stacyvm.CodeInvalid, "metadata"},
		"zero byte":           {control.CreateRequest{Metadata: map[string]string{"k": "\x00"}}, stacyvm.CodeInvalid, "metadata"},
		"unknown network":     {control.CreateRequest{NetworkMode: "host"}, stacyvm.CodeInvalid, "network_mode"},
		"egress":              {control.CreateRequest{NetworkMode: "egress"}, stacyvm.CodeUnsupported, ""},
		"name with =":         {control.CreateRequest{Env: map[string]string{"A=B": ""}}, stacyvm.CodeInvalid, "env"},
		"unknown template":    {control.CreateRequest{Template: "t"}, stacyvm.CodeNotFound, ""},
		"unknown provider":    {control.CreateRequest{Provider: "docker"}, stacyvm.CodeNotFound, ""},
		"provider, malformed": {control.CreateRequest{Provider: "../x"}, stacyvm.CodeNotFound, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			_, _, err := r.Create(r.Ctx, tt.request, control.Idempotency{})
			wantCode(t, err, tt.code)
			var e *stacyvm.Error
			if errors.As(err, &e) && e.Field != tt.field {
				t.Errorf("field %q, want %q", e.Field, tt.field)
			}
			if _, err := r.Admit(r.Ctx, tt.request); tt.code != stacyvm.CodeLimit && stacyvm.CodeOf(err) != tt.code {
				t.Errorf("admission says %v", err)
			}
		})
	}
	if creates, _, _ := r.Machine.Counts(); creates != 0 {
		t.Errorf("%d runtimes were made", creates)
	}
}

// In a bubble, because the caller who may is waited for: the machine has no guest.
func TestTenantsDoNotSeeEachOther(t *testing.T) { synctest.Test(t, tenantsDoNotSeeEachOther) }

func tenantsDoNotSeeEachOther(t *testing.T) {
	r := &rig{controltest.NewRigOn(t, controltest.OpenSQLite(t), nil)}
	mine, theirs := controltest.As(t.Context(), "ann", "acme"), controltest.As(t.Context(), "bob", "other")
	sandbox, _, err := r.Create(mine, control.CreateRequest{}, control.Idempotency{})
	if err != nil {
		t.Fatal(err)
	}
	absent := stacyvm.NewSandboxID()
	calls := map[string]func(context.Context, stacyvm.SandboxID) error{
		"get": func(ctx context.Context, id stacyvm.SandboxID) error { _, err := r.Sandbox(ctx, id); return err },
		"extend": func(ctx context.Context, id stacyvm.SandboxID) error {
			_, err := r.Extend(ctx, id, time.Hour)
			return err
		},
		"exec": func(ctx context.Context, id stacyvm.SandboxID) error {
			_, err := r.Exec(ctx, id, control.ExecRequest{Command: "true"})
			return err
		},
		"attach": func(ctx context.Context, id stacyvm.SandboxID) error {
			_, err := r.Attach(ctx, id, "p", control.AttachRequest{})
			return err
		},
		"read":      func(ctx context.Context, id stacyvm.SandboxID) error { _, err := r.ReadFile(ctx, id, "/x"); return err },
		"signal":    func(ctx context.Context, id stacyvm.SandboxID) error { return r.Signal(ctx, id, "p", 9) },
		"logs":      func(ctx context.Context, id stacyvm.SandboxID) error { _, err := r.Logs(ctx, id, 1); return err },
		"z destroy": func(ctx context.Context, id stacyvm.SandboxID) error { return r.Destroy(ctx, id) },
	}
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		call := calls[name]
		_ = call(mine, sandbox.ID) // fills the cache
		foreign, missing := call(theirs, sandbox.ID), call(theirs, absent)
		wantCode(t, foreign, stacyvm.CodeNotFound)
		wantCode(t, missing, stacyvm.CodeNotFound)
		if strings.ReplaceAll(foreign.Error(), string(sandbox.ID), "x") != strings.ReplaceAll(missing.Error(), string(absent), "x") {
			t.Errorf("%s: a foreign object answers %q, an absent one %q", name, foreign, missing)
		}
		if name == "z destroy" { // ends what the others ask for
			continue
		}
		wantCode(t, call(auth.With(t.Context(), stacyvm.Principal{Tenant: "acme"}), sandbox.ID), stacyvm.CodeForbidden)
	}
	if list, _, err := r.Sandboxes(theirs, control.SandboxPage{Limit: 10}); err != nil || len(list) != 0 {
		t.Errorf("the other tenant lists %d sandboxes, %v", len(list), err)
	}
}

func TestDestroyIsOnce(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	sandbox := r.MustCreate(t)
	wantCode(t, r.Destroy(r.Ctx, sandbox.ID), "")
	wantCode(t, r.Destroy(r.Ctx, sandbox.ID), stacyvm.CodeNotFound)
	wantCode(t, r.Destroy(r.Ctx, "sb-nonsense"), stacyvm.CodeNotFound)
	_, err := r.Sandbox(r.Ctx, sandbox.ID)
	wantCode(t, err, stacyvm.CodeNotFound)
	_, err = r.Extend(r.Ctx, sandbox.ID, time.Hour)
	wantCode(t, err, stacyvm.CodeNotFound)
	_, err = r.Exec(r.Ctx, sandbox.ID, control.ExecRequest{Command: "true"})
	wantCode(t, err, stacyvm.CodeNotFound)
	if row := controltest.Row(t, r.Store, sandbox.ID); row.State != stacyvm.StateDestroyed || row.Desired != stacyvm.DesiredDestroyed {
		t.Errorf("the tombstone is %s, %s", row.State, row.Desired)
	}
	if _, _, present := r.Machine.Counts(); present != 0 {
		t.Errorf("%d runtimes are left", present)
	}
	controltest.Update(t, r.Store, func(tx store.Tx) error {
		lease, err := tx.Leases().Get(t.Context(), string(sandbox.ID))
		if err == nil && lease.Holder != "" {
			t.Errorf("the lease is still held by %s", lease.Holder)
		}
		return err
	})
}

func TestDestroyThatCannotBeDoneIsKept(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	sandbox := r.MustCreate(t)
	r.Machine.BeforeDestroy = func(context.Context, stacyvm.Ref) error { return errors.New("engine: /var/lib/secret broke") }
	err := r.Destroy(r.Ctx, sandbox.ID)
	wantCode(t, err, stacyvm.CodeUnavailable)
	var e *stacyvm.Error
	if errors.As(err, &e) && strings.Contains(e.Message, "secret") {
		t.Errorf("the message tells too much: %s", e.Message)
	}
	if row := controltest.Row(t, r.Store, sandbox.ID); row.Desired != stacyvm.DesiredDestroyed || !row.State.Active() {
		t.Errorf("the wish is not kept: %s, %s", row.State, row.Desired)
	}
	_, err = r.Exec(r.Ctx, sandbox.ID, control.ExecRequest{Command: "true"})
	wantCode(t, err, stacyvm.CodeConflict)
	r.Machine.BeforeDestroy = nil
	wantCode(t, r.Destroy(r.Ctx, sandbox.ID), "")
}

func TestDestroyFollowsANewOwner(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	sandbox := r.MustCreate(t)
	raised := false
	r.Machine.BeforeDestroy = func(ctx context.Context, ref stacyvm.Ref) error {
		if raised {
			return nil
		}
		raised = true // between the wish and the worker's answer, another session takes the lease
		err := r.Store.Update(ctx, func(tx store.Tx) error {
			_, err := tx.Leases().Acquire(ctx, store.LeaseRequest{Resource: string(ref.ID), Type: "sandbox", Holder: controltest.Self, Session: "s2", TTL: time.Minute, Successor: true})
			return err
		})
		if err != nil {
			return err
		}
		return stacyvm.Errorf(stacyvm.CodeStaleEpoch, "a newer owner exists")
	}
	wantCode(t, r.Destroy(r.Ctx, sandbox.ID), "")
	if row := controltest.Row(t, r.Store, sandbox.ID); row.State != stacyvm.StateDestroyed {
		t.Errorf("the row is %s", row.State)
	}
}

func TestExtend(t *testing.T) { synctest.Test(t, extend) }

func extend(t *testing.T) {
	r := &rig{controltest.NewRigOn(t, controltest.OpenSQLite(t), func(c *control.Config) { c.Defaults.MaxTTL = 2 * time.Hour })}
	sandbox := r.MustCreate(t)
	extended, err := r.Extend(r.Ctx, sandbox.ID, time.Hour)
	if err != nil || extended.ExpiresAt.Sub(sandbox.ExpiresAt) < 29*time.Minute {
		t.Errorf("extended to %s, %v", extended.ExpiresAt, err)
	}
	if runtime, _ := r.Machine.Runtime(sandbox.ID); !runtime.Request.ExpiresAt.Equal(extended.ExpiresAt) {
		t.Errorf("its worker was told %s", runtime.Request.ExpiresAt)
	}
	for ttl, code := range map[time.Duration]stacyvm.Code{0: stacyvm.CodeInvalid, -1: stacyvm.CodeInvalid, 2*time.Hour + 1: stacyvm.CodeLimit} {
		_, err := r.Extend(r.Ctx, sandbox.ID, ttl)
		wantCode(t, err, code)
	}
	short := 20 * time.Second
	brief, _, err := r.Create(r.Ctx, control.CreateRequest{TTL: &short}, control.Idempotency{})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * short)
	_, err = r.Extend(r.Ctx, brief.ID, time.Hour)
	wantCode(t, err, stacyvm.CodeConflict)
	_, err = r.Exec(r.Ctx, brief.ID, control.ExecRequest{Command: "true"})
	wantCode(t, err, stacyvm.CodeConflict)
	if pruned, err := r.Prune(r.Ctx); pruned != 1 || err != nil {
		t.Errorf("pruned %d, %v", pruned, err)
	}
	if list, _, _ := r.Sandboxes(r.Ctx, control.SandboxPage{Limit: 10}); len(list) != 1 || list[0].ID != sandbox.ID {
		t.Errorf("%d sandboxes are left", len(list))
	}
}

func TestQuotaIsExact(t *testing.T) {
	const clients, limit = 200, 10
	for name, set := range map[string]func(*control.Config){
		"in all":    func(c *control.Config) { c.Defaults.MaxSandboxes = limit },
		"per owner": func(c *control.Config) { c.Defaults.MaxSandboxesPerOwner = limit },
	} {
		t.Run(name, func(t *testing.T) {
			r := &rig{controltest.NewRig(t, set)}
			var mu sync.Mutex
			codes := map[stacyvm.Code]int{}
			var wait sync.WaitGroup
			for range clients {
				wait.Go(func() {
					_, _, err := r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{})
					mu.Lock()
					defer mu.Unlock()
					codes[stacyvm.CodeOf(err)]++
				})
			}
			wait.Wait()
			if codes[""] != limit || codes[stacyvm.CodeLimit] != clients-limit {
				t.Errorf("outcomes %v, want %d creates", codes, limit)
			}
			if creates, _, present := r.Machine.Counts(); creates != limit || present != limit {
				t.Errorf("%d runtimes made, %d there", creates, present)
			}
			if a, err := r.Admit(r.Ctx, control.CreateRequest{}); err != nil || a.Allowed || a.Active != limit {
				t.Errorf("admission %+v, %v", a, err)
			}
		})
	}
}

func TestParallelClients(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	var wait sync.WaitGroup
	for range 8 {
		wait.Go(func() {
			for range 25 {
				sandbox, _, err := r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{})
				if err != nil {
					t.Error(err)
					return
				}
				if err := r.Destroy(r.Ctx, sandbox.ID); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wait.Wait()
	creates, destroys, present := r.Machine.Counts()
	if creates != 200 || destroys != 200 || present != 0 {
		t.Errorf("%d made, %d destroyed, %d left", creates, destroys, present)
	}
	if list, _, err := r.Sandboxes(r.Ctx, control.SandboxPage{Limit: 10}); err != nil || len(list) != 0 {
		t.Errorf("%d sandboxes listed, %v", len(list), err)
	}
}

func TestAdmissionNamesTheReason(t *testing.T) {
	r := &rig{controltest.NewRig(t, func(c *control.Config) { c.Defaults.MaxSandboxes, c.Defaults.MaxSandboxesPerOwner = 2, 1 })}
	long := 25 * time.Hour
	check := func(ctx context.Context, request control.CreateRequest, want stacyvm.AdmissionReason) {
		t.Helper()
		a, err := r.Admit(ctx, request)
		if err != nil || a.Reason != want || a.Allowed != (want == "") {
			t.Errorf("reason %q, allowed %v, %v; want %q", a.Reason, a.Allowed, err, want)
		}
	}
	check(r.Ctx, control.CreateRequest{}, "")
	check(r.Ctx, control.CreateRequest{TTL: &long}, "max_ttl")
	r.MustCreate(t)
	check(r.Ctx, control.CreateRequest{}, "max_sandboxes_per_owner")
	check(r.Ctx, control.CreateRequest{OwnerID: "bob"}, "")
	if _, _, err := r.Create(r.Ctx, control.CreateRequest{OwnerID: "bob"}, control.Idempotency{}); err != nil {
		t.Fatal(err)
	}
	check(r.Ctx, control.CreateRequest{OwnerID: "cid"}, "max_sandboxes")
	drained := &rig{controltest.NewRig(t, nil)}
	controltest.Update(t, drained.Store, func(tx store.Tx) error {
		_, err := tx.Workers().Save(t.Context(), stacyvm.Worker{ID: controltest.Self, Status: "draining", Providers: []string{"mock"}})
		return err
	})
	r = drained
	check(r.Ctx, control.CreateRequest{}, "worker_unavailable")
	_, _, err := r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{})
	wantCode(t, err, stacyvm.CodeLimit)
}
