package cluster_test

import (
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// newForgottenRig has room for one sandbox, which is on a worker that cannot be called.
func newForgottenRig(t *testing.T, change func(*stacyvm.Worker)) (*rig, stacyvm.Sandbox) {
	t.Helper()
	s, w := controltest.OpenStore(t), controltest.NewWorker()
	var away error
	service := controltest.NewService(t, s, w, func(c *control.Config) {
		c.Self, c.Defaults.MaxSandboxes = "", 1
		c.Workers = func(stacyvm.WorkerID) (worker.Worker, error) { return w, away }
	})
	r := &rig{&controltest.Rig{Service: service, Store: s, Machine: w, Ctx: controltest.As(t.Context(), "ann", "")}}
	r.Register(t, "w1", nil)
	sandbox := r.MustCreate(t)
	away = stacyvm.Errorf(stacyvm.CodeUnavailable, "connection refused")
	r.Register(t, "w1", change)
	return r, sandbox
}

// wantLost fails the test unless a sandbox ended as lost, without a lease, and was told so.
func (r *rig) wantLost(t *testing.T, id stacyvm.SandboxID) {
	t.Helper()
	row := controltest.Row(t, r.Store, id)
	if row.State != stacyvm.StateDestroyed || row.Reason != "lost" {
		t.Errorf("the sandbox is %s (%s)", row.State, row.Reason)
	}
	controltest.Update(t, r.Store, func(tx store.Tx) error {
		lease, err := tx.Leases().Get(t.Context(), string(id))
		if err == nil && lease.Holder != "" {
			t.Errorf("its lease is %+v", lease)
		}
		n, err := tx.Sandboxes().Count(t.Context(), store.SandboxFilter{})
		if n != 0 {
			t.Errorf("%d count against the limit", n)
		}
		return err
	})
}

// TestForgetAWorker: one that is online, and one that has sandboxes, is forgotten with force
// alone. Its sandboxes end then.
func TestForgetAWorker(t *testing.T) {
	for name, change := range map[string]func(*stacyvm.Worker){
		"online": nil, "draining": func(w *stacyvm.Worker) { w.Status = "draining" }, "offline": func(w *stacyvm.Worker) { w.Status = "offline" },
	} {
		t.Run(name, func(t *testing.T) {
			r, sandbox := newForgottenRig(t, change)
			admin := controltest.AsAdmin(t.Context())
			wantCode(t, r.DeleteWorker(admin, "w1", false), stacyvm.CodeConflict)
			wantCode(t, r.Destroy(r.Ctx, sandbox.ID), stacyvm.CodeUnavailable) // its worker may come back
			_, _, err := r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{})
			wantCode(t, err, stacyvm.CodeLimit)
			wantCode(t, r.DeleteWorker(admin, "w1", true), "")
			r.wantLost(t, sandbox.ID)
			_, err = r.Worker(admin, "w1")
			wantCode(t, err, stacyvm.CodeNotFound)
			wantCode(t, r.DeleteWorker(admin, "w1", true), stacyvm.CodeNotFound)
			wantCode(t, r.Destroy(r.Ctx, sandbox.ID), stacyvm.CodeNotFound)
		})
	}
	t.Run("without sandboxes", func(t *testing.T) {
		r := &rig{controltest.NewFleetRig(t)}
		r.Register(t, "w1", nil)
		// it would register anew
		wantCode(t, r.DeleteWorker(controltest.AsAdmin(t.Context()), "w1", false), stacyvm.CodeConflict)
		r.Register(t, "w1", func(w *stacyvm.Worker) { w.Status = "offline" })
		wantCode(t, r.DeleteWorker(controltest.AsAdmin(t.Context()), "w1", false), "")
	})
}

// TestForgetManySandboxes: more than one transaction takes.
func TestForgetManySandboxes(t *testing.T) {
	r := &rig{controltest.NewFleetRig(t)}
	r.Register(t, "w1", nil)
	const many = 250
	controltest.Update(t, r.Store, func(tx store.Tx) error {
		for range many {
			_, err := tx.Sandboxes().InsertHeld(t.Context(), "session-w1", time.Minute, stacyvm.Sandbox{
				ID: stacyvm.NewSandboxID(), State: stacyvm.StateCreating, Desired: stacyvm.DesiredRunning, WorkerID: "w1",
				Spec: stacyvm.Spec{TTL: time.Hour}, Fence: stacyvm.Fence{Incarnation: 1},
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	wantCode(t, r.DeleteWorker(controltest.AsAdmin(t.Context()), "w1", true), "")
	controltest.Update(t, r.Store, func(tx store.Tx) error {
		n, err := tx.Sandboxes().Count(t.Context(), store.SandboxFilter{Worker: "w1"})
		if n != 0 {
			t.Errorf("%d are left", n)
		}
		return err
	})
}

// TestKillWithoutAWorker: what a worker that is not registered any more has left can be killed.
func TestKillWithoutAWorker(t *testing.T) {
	r, sandbox := newForgottenRig(t, nil)
	controltest.Update(t, r.Store, func(tx store.Tx) error { return tx.Workers().Delete(t.Context(), "w1") })
	wantCode(t, r.Destroy(r.Ctx, sandbox.ID), "")
	r.wantLost(t, sandbox.ID)
}
