package reconcile

import (
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// restored is a machine whose database was put back: its rows are of a day ago, its runtimes of
// today.
type restored struct {
	older, creating, lost, newer, gone stacyvm.Sandbox
}

func (r *rig) putBack() (s restored) {
	r.Helper()
	confirmed := func(runtime *worker.Runtime) { runtime.Fence.Epoch += 7 } // servers came and went since the backup
	s.older, s.creating, s.lost, s.gone = r.sandbox(nil), r.sandbox(in(stacyvm.StateCreating)), r.sandbox(in(stacyvm.StateUnhealthy)), r.sandbox(nil)
	s.newer = stacyvm.Sandbox{
		ID: stacyvm.NewSandboxID(), Fence: stacyvm.Fence{Incarnation: r.cluster.Incarnation, Epoch: 1}, Spec: s.older.Spec, OwnerID: "ann", TenantID: "acme",
	}
	for _, row := range []stacyvm.Sandbox{s.older, s.creating, s.lost, s.newer} {
		r.runtime(row, confirmed)
	}
	time.Sleep(24 * time.Hour) // the rows' time has passed; the sandboxes were extended
	if _, err := store.Raise(r.Context(), r.store, 0); err != nil {
		r.Fatal(err)
	}
	return s
}

// TestRestored has the first process after a restore: it kills nothing, admits what is newer than
// the backup and takes back what is older.
func TestRestored(t *testing.T) {
	inBubble(t, func(r *rig) {
		s := r.putBack()
		r.must(r.Start(r.Context()))
		r.must(r.Reap(r.Context()))
		r.must(r.Keep(r.Context()))
		r.must(r.Stale(r.Context()))
		r.recover() // reports only
		r.expect(s.older.ID, stacyvm.StateRunning, "", true)
		r.expect(s.creating.ID, stacyvm.StateCreating, "", true)
		r.expect(s.lost.ID, stacyvm.StateUnhealthy, "", true)
		r.expect(s.gone.ID, stacyvm.StateRunning, "", false)
		if err := r.known(s.newer.ID); stacyvm.CodeOf(err) != stacyvm.CodeNotFound {
			r.Errorf("the first pass admitted: %v", err)
		}
		time.Sleep(recoverEvery)
		r.recover()
		for range 5 { // and nothing later
			r.must(r.Reap(r.Context()))
			r.recover()
			time.Sleep(recoverEvery)
		}
		for _, row := range []stacyvm.Sandbox{s.older, s.creating, s.lost, s.newer} {
			after := r.expect(row.ID, stacyvm.StateRunning, "", true)
			runtime, _ := r.machine.Runtime(row.ID)
			newer := after.Fence.Incarnation > r.cluster.Incarnation && after.Fence.Compare(runtime.Fence) >= 0
			if !newer || after.Recovered != (row.ID == s.newer.ID) || r.lease(row.ID).Session != "now" {
				r.Errorf("%s: fence %v, the worker confirmed %v, recovered %v, lease %+v", row.ID, after.Fence, runtime.Fence, after.Recovered, r.lease(row.ID))
			}
		}
		r.expect(s.gone.ID, stacyvm.StateUnhealthy, stacyvm.ReasonLost, false)
		if _, destroys, _ := r.machine.Counts(); destroys != 0 {
			r.Errorf("%d runtimes were destroyed", destroys)
		}
	})
}

// TestRestoredAndCrashed starts again while the database settles: the first pass of that process
// only reports too, and the time is not prolonged.
func TestRestoredAndCrashed(t *testing.T) {
	inBubble(t, func(r *rig) {
		s := r.putBack()
		r.must(r.Start(r.Context()))
		until, err := r.settlesAt(r.Context())
		r.must(err)
		time.Sleep(recoverEvery)
		r.Reconciler = r.session("again")
		r.must(r.Start(r.Context()))
		r.recover()
		if err := r.known(s.newer.ID); stacyvm.CodeOf(err) != stacyvm.CodeNotFound {
			r.Errorf("the first pass admitted: %v", err)
		}
		if again, err := r.settlesAt(r.Context()); err != nil || !again.Equal(until) {
			r.Errorf("it settles until %s instead of %s, %v", again, until, err)
		}
		r.recover()
		r.must(r.known(s.newer.ID))
		time.Sleep(store.RestoreGrace)
		r.Reconciler = r.session("later")
		r.must(r.Start(r.Context()))
		lost := r.sandbox(nil)
		r.recover() // acts at once
		r.expect(lost.ID, stacyvm.StateUnhealthy, stacyvm.ReasonLost, false)
	})
}

// TestRaisedWhileRunning is a promotion of the database: the process that lives through it reports
// first, too, and forgets what it saw before.
func TestRaisedWhileRunning(t *testing.T) {
	inBubble(t, func(r *rig) {
		tombstone := r.sandbox(in(stacyvm.StateDestroyed))
		r.runtime(tombstone, nil)
		r.must(r.Start(r.Context()))
		r.recover() // the first sighting
		if _, err := store.Raise(r.Context(), r.store, 0); err != nil {
			r.Fatal(err)
		}
		r.recover() // reports
		r.recover() // the first sighting once more
		r.expect(tombstone.ID, stacyvm.StateDestroyed, "", true)
		r.recover()
		r.expect(tombstone.ID, stacyvm.StateDestroyed, "", false)
	})
}

// known tells whether the store has a row.
func (r *rig) known(id stacyvm.SandboxID) error {
	return r.store.View(r.Context(), func(tx store.Tx) error {
		_, err := tx.Sandboxes().Get(r.Context(), id)
		return err
	})
}
