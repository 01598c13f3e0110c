package reconcile

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	self  = controltest.Self
	other = stacyvm.WorkerID("elsewhere")
)

// rig is a reconciler over a real store and a worker with knobs, in a bubble: time passes when
// everybody waits for it.
type rig struct {
	*testing.T
	*Reconciler
	store   store.Store
	machine *controltest.Worker
	cluster store.Cluster
}

// inBubble runs a test with a rig whose session is "now"; sandboxes were leased by the session
// "before".
func inBubble(t *testing.T, test func(*rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{T: t, store: controltest.OpenSQLite(t), machine: controltest.NewWorker()}
		var err error
		if r.cluster, err = r.store.Cluster(t.Context()); err != nil {
			t.Fatal(err)
		}
		r.Reconciler = r.session("now")
		test(r)
	})
}

// session makes the reconciler of one process.
func (r *rig) session(name string) *Reconciler {
	return New(Config{Store: r.store, Worker: r.machine, Self: self, Session: name, Hostname: "host"})
}

func (r *rig) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

func (r *rig) update(write func(ctx context.Context, tx store.Tx) error) {
	r.Helper()
	r.must(r.store.Update(r.Context(), func(tx store.Tx) error { return write(r.Context(), tx) }))
}

// sandbox writes a running row with its lease; change alters it first.
func (r *rig) sandbox(change func(*stacyvm.Sandbox)) stacyvm.Sandbox {
	r.Helper()
	row := stacyvm.Sandbox{
		ID: stacyvm.NewSandboxID(), State: stacyvm.StateRunning, Desired: stacyvm.DesiredRunning, Provider: "mock", Image: "host",
		Spec: stacyvm.Spec{Provider: "mock", Image: "host", TTL: time.Hour}, OwnerID: "ann", TenantID: "acme", WorkerID: self,
		Fence: stacyvm.Fence{Incarnation: r.cluster.Incarnation},
	}
	if change != nil {
		change(&row)
	}
	state := row.State
	if state == stacyvm.StateDestroyed {
		row.State = stacyvm.StateRunning // a lease needs a live row
	}
	r.update(func(ctx context.Context, tx store.Tx) (err error) {
		if row, err = tx.Sandboxes().Insert(ctx, row); err != nil {
			return err
		}
		lease, err := tx.Leases().Acquire(ctx, store.LeaseRequest{
			Resource: string(row.ID), Type: "sandbox", Holder: row.WorkerID, Session: "before", TTL: stacyvm.LeaseTTL, Grace: stacyvm.LeaseGrace,
		})
		row.Fence.Epoch = lease.Epoch
		if err == nil && state != row.State {
			row, err = tx.Sandboxes().Apply(ctx, row.ID, row.Fence, store.Change{State: state})
		}
		return err
	})
	return row
}

// runtime puts what fits to a row onto the machine.
func (r *rig) runtime(row stacyvm.Sandbox, change func(*worker.Runtime)) {
	runtime := worker.Runtime{
		ID: row.ID, Fence: row.Fence, Cluster: r.cluster.ID, Phase: worker.PhaseRunning, CreatedAt: time.Now(),
		Created: worker.Created{RuntimeID: "rt-" + string(row.ID), Unenforced: []stacyvm.Limit{stacyvm.LimitDisk}},
		Request: worker.CreateRequest{Cluster: r.cluster.ID, Spec: row.Spec, OwnerID: row.OwnerID, TenantID: row.TenantID, ExpiresAt: row.ExpiresAt},
	}
	if change != nil {
		change(&runtime)
	}
	r.machine.Put(runtime)
}

// row reads a sandbox as the store has it.
func (r *rig) row(id stacyvm.SandboxID) stacyvm.Sandbox {
	r.Helper()
	return controltest.Row(r.T, r.store, id)
}

// expect checks a row and whether its runtime is on the machine.
func (r *rig) expect(id stacyvm.SandboxID, state stacyvm.State, reason stacyvm.Reason, runtime bool) stacyvm.Sandbox {
	r.Helper()
	row := r.row(id)
	if _, there := r.machine.Runtime(id); row.State != state || row.Reason != reason || there != runtime {
		r.Errorf("the row is %s (%q), its runtime there: %v; want %s (%q), %v", row.State, row.Reason, there, state, reason, runtime)
	}
	return row
}

func (r *rig) lease(id stacyvm.SandboxID) (lease stacyvm.Lease) {
	r.Helper()
	r.must(r.store.View(r.Context(), func(tx store.Tx) (err error) {
		lease, err = tx.Leases().Get(r.Context(), string(id))
		return err
	}))
	return lease
}

// audited counts a sandbox's audit lines of one action.
func (r *rig) audited(id stacyvm.SandboxID, action string) (n int) {
	r.Helper()
	r.must(r.store.View(r.Context(), func(tx store.Tx) error {
		lines, err := tx.Audit().Operations(r.Context(), store.OperationFilter{Sandbox: id, Action: action})
		n = len(lines)
		return err
	}))
	return n
}

// recover runs one pass.
func (r *rig) recover() {
	r.Helper()
	r.must(r.Recover(r.Context()))
}

var errBroken = stacyvm.Errorf(stacyvm.CodeUnavailable, "broken on purpose")
