package reconcile

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
	"github.com/stacyvm/stacyvm/internal/worker"
)

const far stacyvm.WorkerID = "far"

// cluster is a store that several control planes share, whose clock a test moves, and one worker
// on another machine.
type cluster struct {
	*testing.T
	store    store.Store
	identity store.Cluster
	skew     atomic.Int64
	machine  *controltest.Worker
	cut      atomic.Bool // the worker's RPC does not answer
	status   stacyvm.WorkerStatus
	session  string
}

// onEachDriver runs a test with an empty cluster on each database.
func onEachDriver(t *testing.T, test func(*cluster)) {
	for name, config := range map[string]func(testing.TB) store.Config{
		"sqlite":   func(t testing.TB) store.Config { return store.Config{Path: filepath.Join(t.TempDir(), "stacyvm.db")} },
		"postgres": func(t testing.TB) store.Config { return store.Config{Driver: "postgres", DSN: postgrestest.Schema(t)} },
	} {
		t.Run("driver="+name, func(t *testing.T) {
			c := &cluster{T: t, machine: controltest.NewWorker(), status: "online", session: "far-1"}
			config := config(t)
			config.Skew = func() time.Duration { return time.Duration(c.skew.Load()) }
			var err error
			if c.store, err = store.Open(t.Context(), config); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.store.Close() })
			if c.identity, err = c.store.Cluster(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.beat()
			test(c)
		})
	}
}

// plane makes a control plane without a worker of its own.
func (c *cluster) plane(name stacyvm.WorkerID) *Reconciler {
	return New(Config{Store: c.store, Self: name, Session: string(name) + "-1", Workers: c.worker})
}

func (c *cluster) worker(id stacyvm.WorkerID) (worker.Worker, error) {
	if id != far || c.cut.Load() {
		return nil, errBroken
	}
	return c.machine, nil
}

func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) update(write func(context.Context, store.Tx) error) {
	c.Helper()
	c.must(c.store.Update(c.Context(), func(tx store.Tx) error { return write(c.Context(), tx) }))
}

// advance moves the database's clock; the worker goes on telling that it lives, unless it is
// silent.
func (c *cluster) advance(d time.Duration) { c.skew.Add(int64(d)) }

// beat is the worker's heartbeat.
func (c *cluster) beat() {
	c.Helper()
	c.update(func(ctx context.Context, tx store.Tx) error {
		_, err := tx.Workers().Save(ctx, stacyvm.Worker{
			ID: far, Status: c.status, Session: c.session, Capacity: stacyvm.Capacity{RPCURL: "http://far:7424"},
		})
		return err
	})
}

// sandbox writes a row of the far worker, with its lease, and puts its runtime onto the machine.
func (c *cluster) sandbox(ttl time.Duration, state stacyvm.State) stacyvm.Sandbox {
	c.Helper()
	row := stacyvm.Sandbox{
		ID: stacyvm.NewSandboxID(), State: stacyvm.StateRunning, Desired: stacyvm.DesiredRunning, Provider: "mock", Image: "host",
		Spec: stacyvm.Spec{Provider: "mock", Image: "host", TTL: ttl}, WorkerID: far, Fence: stacyvm.Fence{Incarnation: c.identity.Incarnation},
	}
	c.update(func(ctx context.Context, tx store.Tx) (err error) {
		if row, err = tx.Sandboxes().Insert(ctx, row); err != nil {
			return err
		}
		lease, err := tx.Leases().Acquire(ctx, store.LeaseRequest{Resource: string(row.ID), Type: "sandbox", Holder: far, Session: c.session, TTL: stacyvm.LeaseTTL})
		if row.Fence.Epoch = lease.Epoch; err != nil || state == row.State {
			return err
		}
		row, err = tx.Sandboxes().Apply(ctx, row.ID, row.Fence, store.Change{State: state})
		return err
	})
	c.runtime(row)
	return row
}

func (c *cluster) runtime(row stacyvm.Sandbox) {
	c.machine.Put(worker.Runtime{
		ID: row.ID, Fence: row.Fence, Cluster: c.identity.ID, Phase: worker.PhaseRunning, CreatedAt: time.Now(), Created: worker.Created{RuntimeID: "rt"},
		Request: worker.CreateRequest{Cluster: c.identity.ID, Spec: row.Spec, ExpiresAt: row.ExpiresAt},
	})
}

// expect checks a row and whether its runtime is on the machine.
func (c *cluster) expect(what string, id stacyvm.SandboxID, state stacyvm.State, reason stacyvm.Reason, runtime bool) stacyvm.Sandbox {
	c.Helper()
	row := controltest.Row(c.T, c.store, id)
	if _, there := c.machine.Runtime(id); row.State != state || row.Reason != reason || there != runtime {
		c.Errorf("%s: the row is %s (%q), its runtime there: %v; want %s (%q), %v", what, row.State, row.Reason, there, state, reason, runtime)
	}
	return row
}

func (c *cluster) lease(resource string) (lease stacyvm.Lease) {
	c.Helper()
	c.must(c.store.View(c.Context(), func(tx store.Tx) (err error) {
		lease, err = tx.Leases().Get(c.Context(), resource)
		return err
	}))
	return lease
}

// work does once what a control plane does again and again. What it reports of a worker that
// cannot be reached is left out.
func (c *cluster) work(r *Reconciler) {
	c.Helper()
	c.must(r.Keep(c.Context()))
	for _, one := range r.snapshot() {
		if one.machine != nil {
			if err := one.visit(c.Context()); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
				c.must(err)
			}
		}
	}
	var reaping sync.WaitGroup
	c.must(r.reap(c.Context(), reaping.Go))
	reaping.Wait()
	c.must(r.Stale(c.Context()))
}
