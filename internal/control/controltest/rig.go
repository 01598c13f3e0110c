package controltest

import (
	"context"
	"testing"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// Rig is a service on a store and a worker with knobs, and a caller.
type Rig struct {
	*control.Service
	Store   store.Store
	Machine *Worker
	Ctx     context.Context // of the caller "ann", without a tenant
}

// NewRig makes a rig on an empty store; change alters the service's configuration first.
func NewRig(t testing.TB, change func(*control.Config)) *Rig {
	t.Helper()
	return NewRigOn(t, OpenStore(t), change)
}

// NewRigOn is NewRig on a store.
func NewRigOn(t testing.TB, s store.Store, change func(*control.Config)) *Rig {
	t.Helper()
	w := NewWorker()
	Register(t, s)
	return &Rig{NewService(t, s, w, change), s, w, As(t.Context(), "ann", "")}
}

// NewFleetRig is a control plane without a worker of its own. All workers are one machine; none
// is registered.
func NewFleetRig(t testing.TB) *Rig {
	t.Helper()
	s, w := OpenStore(t), NewWorker()
	service := NewService(t, s, w, func(c *control.Config) {
		c.Self = ""
		c.Workers = func(stacyvm.WorkerID) (worker.Worker, error) { return w, nil }
	})
	return &Rig{service, s, w, As(t.Context(), "ann", "")}
}

// MustCreate makes a sandbox of the caller's.
func (r *Rig) MustCreate(t testing.TB) stacyvm.Sandbox {
	t.Helper()
	sandbox, _, err := r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{})
	if err != nil {
		t.Fatal(err)
	}
	return sandbox
}

// Register writes an online worker with an address; change alters it first.
func (r *Rig) Register(t testing.TB, id stacyvm.WorkerID, change func(*stacyvm.Worker)) {
	t.Helper()
	w := stacyvm.Worker{
		ID: id, Status: "online", Session: "session-" + string(id), Providers: []string{"mock"},
		Capacity: stacyvm.Capacity{RPCURL: "https://" + string(id) + ":7424"},
	}
	if change != nil {
		change(&w)
	}
	Update(t, r.Store, func(tx store.Tx) error {
		_, err := tx.Workers().Save(t.Context(), w)
		return err
	})
}

// Operations reads the audit.
func (r *Rig) Operations(t testing.TB, filter store.OperationFilter) (lines []stacyvm.Operation) {
	t.Helper()
	err := r.Store.View(t.Context(), func(tx store.Tx) (err error) {
		lines, err = tx.Audit().Operations(t.Context(), filter)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// WantCode fails the test unless err has the code; "" means no error.
func WantCode(t testing.TB, err error, want stacyvm.Code) {
	t.Helper()
	if stacyvm.CodeOf(err) != want {
		t.Errorf("got %v, want code %q", err, want)
	}
}
