package reconcile

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

func lives(ttl time.Duration) func(*stacyvm.Sandbox) {
	return func(row *stacyvm.Sandbox) { row.Spec.TTL = ttl }
}

func TestReap(t *testing.T) {
	inBubble(t, func(r *rig) {
		short, long := r.sandbox(lives(time.Minute)), r.sandbox(lives(time.Hour))
		theirs := r.sandbox(func(row *stacyvm.Sandbox) { row.WorkerID, row.Spec.TTL = other, time.Minute })
		for _, row := range []stacyvm.Sandbox{short, long, theirs} {
			r.runtime(row, nil)
		}
		time.Sleep(time.Minute - time.Millisecond)
		r.must(r.Reap(r.Context()))
		r.expect(short.ID, stacyvm.StateRunning, "", true) // never early
		time.Sleep(time.Millisecond)
		r.must(r.Reap(r.Context()))
		r.expect(short.ID, stacyvm.StateDestroyed, "", false)
		r.expect(long.ID, stacyvm.StateRunning, "", true)
		r.expect(theirs.ID, stacyvm.StateRunning, "", true)
		if lease := r.lease(short.ID); lease.Holder != "" || r.audited(short.ID, "sandbox.expire") != 1 {
			r.Errorf("the lease is %+v, %d audit lines", lease, r.audited(short.ID, "sandbox.expire"))
		}
	})
}

// TestReapLeavesWhatIsBeingCreated: a create may take longer than its sandbox shall live.
func TestReapLeavesWhatIsBeingCreated(t *testing.T) {
	inBubble(t, func(r *rig) {
		row := r.sandbox(func(row *stacyvm.Sandbox) { row.State, row.Spec.TTL = stacyvm.StateCreating, time.Second })
		r.runtime(row, func(runtime *worker.Runtime) { runtime.Phase = worker.PhaseCreating })
		time.Sleep(30 * time.Second)
		r.must(r.Reap(r.Context()))
		r.expect(row.ID, stacyvm.StateCreating, "", true)
	})
}

// TestExpiredWithoutServer: what its machine ended because it expired ends as if it had been
// reaped, whatever comes first.
func TestExpiredWithoutServer(t *testing.T) {
	inBubble(t, func(r *rig) {
		const detail = "by its machine's record"
		expired, extended := r.sandbox(lives(time.Minute)), r.sandbox(lives(time.Hour))
		time.Sleep(time.Minute)
		for _, row := range []stacyvm.Sandbox{expired, extended} {
			r.runtime(row, func(runtime *worker.Runtime) {
				runtime.Phase = worker.PhaseDead
				runtime.Cause = stacyvm.Cause{Reason: stacyvm.ReasonExpired, Detail: detail, Since: time.Now()}
			})
		}
		for range 2 {
			r.recover()
			r.expect(expired.ID, stacyvm.StateRunning, "", true)
		}
		r.must(r.Reap(r.Context()))
		r.expect(expired.ID, stacyvm.StateDestroyed, "", false)
		if r.audited(expired.ID, "sandbox.expire") != 1 {
			r.Error("its expiry is not in the audit")
		}
		if row := r.expect(extended.ID, stacyvm.StateError, stacyvm.ReasonExpired, true); row.Detail != detail {
			r.Errorf("%+v", row.Cause)
		}
	})
}

// TestExpiryIsSentAgain: a worker whose record of an expiry is another than the row's is told,
// until it has it.
func TestExpiryIsSentAgain(t *testing.T) {
	inBubble(t, func(r *rig) {
		drifted, near, mute, dead := r.sandbox(nil), r.sandbox(nil), r.sandbox(nil), r.sandbox(nil)
		at := func(row stacyvm.Sandbox, off time.Duration, change func(*worker.Runtime)) {
			r.runtime(row, func(runtime *worker.Runtime) {
				runtime.Request.ExpiresAt = runtime.Request.ExpiresAt.Add(off)
				if change != nil {
					change(runtime)
				}
			})
		}
		at(drifted, -time.Hour, nil)
		at(near, time.Minute, nil)
		at(mute, time.Hour, inPhase(worker.PhaseUnknown))
		at(dead, time.Hour, inPhase(worker.PhaseDead))
		var lock sync.Mutex // one pass asks for several at once
		var asked []stacyvm.SandboxID
		answer := error(errBroken)
		r.machine.BeforeExpire = func(_ context.Context, ref stacyvm.Ref) error {
			lock.Lock()
			defer lock.Unlock()
			asked = append(asked, ref.ID)
			return answer
		}
		r.recover()
		answer = nil
		r.recover()
		for _, row := range []stacyvm.Sandbox{drifted, mute} {
			if runtime, _ := r.machine.Runtime(row.ID); !runtime.Request.ExpiresAt.Equal(row.ExpiresAt) {
				r.Errorf("the worker has %s, the row %s", runtime.Request.ExpiresAt, row.ExpiresAt)
			}
		}
		r.recover()
		if len(asked) != 4 || slices.Contains(asked, near.ID) || slices.Contains(asked, dead.ID) {
			r.Errorf("%d calls: %v", len(asked), asked)
		}
	})
}

func TestReapTriesAgain(t *testing.T) {
	inBubble(t, func(r *rig) {
		row := r.sandbox(lives(time.Minute))
		r.runtime(row, nil)
		time.Sleep(2 * time.Minute)
		r.machine.BeforeDestroy = func(context.Context, stacyvm.Ref) error { return errBroken }
		for range 2 {
			r.must(r.Reap(r.Context()))
			r.expect(row.ID, stacyvm.StateExpired, "", true)
		}
		r.machine.BeforeDestroy = nil
		r.must(r.Reap(r.Context()))
		r.expect(row.ID, stacyvm.StateDestroyed, "", false)
	})
}

// TestReapOfASandboxThatIsBeingDestroyed has a user destroy what the reaper has just found: it
// ends once, and is audited once.
func TestReapOfASandboxThatIsBeingDestroyed(t *testing.T) {
	inBubble(t, func(r *rig) {
		row := r.sandbox(lives(time.Minute))
		r.runtime(row, nil)
		time.Sleep(2 * time.Minute)
		r.machine.BeforeDestroy = func(ctx context.Context, _ stacyvm.Ref) error { // somebody else is faster
			r.machine.BeforeDestroy = nil
			return r.store.Update(ctx, func(tx store.Tx) error { return markDestroyed(ctx, tx, row, stacyvm.Cause{}, "sandbox.destroy") })
		}
		r.must(r.Reap(r.Context()))
		r.expect(row.ID, stacyvm.StateDestroyed, "", false)
		if r.audited(row.ID, "sandbox.expire") != 0 || r.audited(row.ID, "sandbox.destroy") != 1 {
			r.Error("one end was audited twice")
		}
	})
}

func TestStartSucceedsTheEarlierProcess(t *testing.T) {
	inBubble(t, func(r *rig) {
		before := r.session("before")
		r.must(before.Start(r.Context()))
		row := r.sandbox(nil)
		r.runtime(row, nil)
		if r.Recovered() {
			r.Error("recovered before the start")
		}
		r.must(r.Start(r.Context()))
		after := r.row(row.ID)
		if lease := r.lease(row.ID); !r.Recovered() || after.Fence.Epoch != row.Fence.Epoch+1 || lease.Session != "now" || lease.Epoch != after.Fence.Epoch {
			r.Errorf("the fence went from %v to %v, the lease is %+v", row.Fence, after.Fence, lease)
		}
		// The earlier process is still there and notices: it can neither write nor renew nor take
		// back.
		if err := before.change(r.Context(), row, stacyvm.StateUnhealthy, stacyvm.Cause{Reason: "late"}); stacyvm.CodeOf(err) != stacyvm.CodeStaleEpoch {
			r.Errorf("the old session wrote: %v", err)
		}
		r.must(before.Renew(r.Context()))
		if lease := r.lease(row.ID); lease.Session != "now" || lease.Generation != 2 {
			r.Errorf("after the old session's renewal: %+v", lease)
		}
		r.expect(row.ID, stacyvm.StateRunning, "", true)
		r.must(r.store.View(r.Context(), func(tx store.Tx) error {
			w, err := tx.Workers().Get(r.Context(), self)
			if w.Session != "now" || w.Status != "online" || w.Hostname != "host" || len(w.Providers) != 1 {
				r.Errorf("registered %+v", w)
			}
			return err
		}))
	})
}

func TestStartLeavesWhatAnotherHolds(t *testing.T) {
	inBubble(t, func(r *rig) {
		row := r.sandbox(nil)
		time.Sleep(stacyvm.LeaseTTL + stacyvm.LeaseGrace + time.Second)
		r.takeOver(row, other)
		mine := r.sandbox(nil)
		r.must(r.Start(r.Context()))
		if lease := r.lease(row.ID); lease.Holder != other {
			r.Errorf("the lease is %+v", lease)
		}
		if lease := r.lease(mine.ID); lease.Session != "now" {
			r.Errorf("the other lease is %+v", lease)
		}
	})
}

// takeOver has another worker take a sandbox that is free.
func (r *rig) takeOver(row stacyvm.Sandbox, by stacyvm.WorkerID) {
	r.Helper()
	r.update(func(ctx context.Context, tx store.Tx) error {
		_, err := tx.Leases().Acquire(ctx, store.LeaseRequest{
			Resource: string(row.ID), Type: "sandbox", Holder: by, Session: "theirs", TTL: time.Hour, Grace: stacyvm.LeaseGrace,
		})
		return err
	})
}

func TestRenewKeepsLeases(t *testing.T) {
	inBubble(t, func(r *rig) {
		row := r.sandbox(nil)
		r.must(r.Start(r.Context()))
		epoch := r.row(row.ID).Fence.Epoch
		for range 30 {
			time.Sleep(stacyvm.LeaseRenewEvery)
			r.must(r.Renew(r.Context()))
		}
		lease := r.lease(row.ID)
		if lease.Epoch != epoch || time.Until(lease.ExpiresAt) != stacyvm.LeaseTTL || lease.Generation != epoch+30 {
			r.Errorf("after five minutes: %+v, epoch before %d", lease, epoch)
		}
	})
}

func TestRenewAfterALapse(t *testing.T) {
	inBubble(t, func(r *rig) {
		kept, taken := r.sandbox(nil), r.sandbox(nil)
		r.must(r.Start(r.Context()))
		before := r.row(kept.ID).Fence
		time.Sleep(stacyvm.LeaseTTL + stacyvm.LeaseGrace + time.Second) // the process slept
		r.takeOver(taken, other)
		r.must(r.Renew(r.Context()))
		after := r.row(kept.ID)
		if lease := r.lease(kept.ID); after.Fence.Epoch != before.Epoch+1 || lease.Session != "now" || time.Until(lease.ExpiresAt) != stacyvm.LeaseTTL {
			r.Errorf("taken again under %v, lease %+v, before %v", after.Fence, lease, before)
		}
		if lease := r.lease(taken.ID); lease.Holder != other || r.row(taken.ID).WorkerID != other {
			r.Errorf("what another took meanwhile was taken back: %+v", lease)
		}
	})
}

func TestStale(t *testing.T) {
	inBubble(t, func(r *rig) {
		at := func(worker stacyvm.WorkerID, state stacyvm.State, ttl time.Duration) stacyvm.SandboxID {
			return r.sandbox(func(row *stacyvm.Sandbox) { row.WorkerID, row.State, row.Spec.TTL = worker, state, ttl }).ID
		}
		save := func(id stacyvm.WorkerID, status stacyvm.WorkerStatus) {
			r.update(func(ctx context.Context, tx store.Tx) error {
				_, err := tx.Workers().Save(ctx, stacyvm.Worker{ID: id, Status: status})
				return err
			})
		}
		mine := at(self, stacyvm.StateRunning, time.Hour)
		gone, paused := at("gone", stacyvm.StateRunning, time.Hour), at("gone", stacyvm.StatePaused, time.Hour)
		late, creating := at("gone", stacyvm.StateRunning, time.Minute), at("gone", stacyvm.StateCreating, time.Hour)
		unknown, offline := at("unknown", stacyvm.StateRunning, time.Hour), at("offline", stacyvm.StateRunning, time.Hour)
		fresh, draining := at("fresh", stacyvm.StateRunning, time.Minute), at("draining", stacyvm.StateRunning, time.Hour)
		save("gone", "online")
		time.Sleep(stacyvm.WorkerStaleAfter + time.Second)
		save("fresh", "online")
		save("draining", "draining")
		save("offline", "offline")
		r.must(r.Keep(r.Context()))
		r.must(r.Stale(r.Context()))
		r.expect(mine, stacyvm.StateRunning, "", false)
		r.expect(gone, stacyvm.StateUnhealthy, stacyvm.ReasonWorkerStale, false)
		r.expect(paused, stacyvm.StatePaused, "", false) // a paused one cannot fall ill
		r.expect(late, stacyvm.StateExpired, stacyvm.ReasonWorkerStale, false)
		r.expect(creating, stacyvm.StateCreating, "", false)
		r.expect(unknown, stacyvm.StateUnhealthy, stacyvm.ReasonWorkerStale, false)
		r.expect(offline, stacyvm.StateUnhealthy, stacyvm.ReasonWorkerStale, false)
		r.expect(fresh, stacyvm.StateRunning, "", false) // its own worker reaps it
		r.expect(draining, stacyvm.StateRunning, "", false)
		// Nobody is left for those of a worker that is not registered: they end when they are to,
		// and count no more.
		r.update(func(ctx context.Context, tx store.Tx) error {
			if _, err := tx.Sandboxes().Want(ctx, unknown, store.Wish{Desired: stacyvm.DesiredDestroyed}); err != nil {
				return err
			}
			return tx.Workers().Delete(ctx, "gone")
		})
		r.must(r.Stale(r.Context()))
		r.expect(unknown, stacyvm.StateDestroyed, stacyvm.ReasonLost, false)
		r.expect(late, stacyvm.StateDestroyed, stacyvm.ReasonLost, false)
		r.expect(gone, stacyvm.StateUnhealthy, stacyvm.ReasonWorkerStale, false)
		if _, destroys, _ := r.machine.Counts(); destroys != 0 {
			r.Errorf("%d were destroyed", destroys)
		}
	})
}

func TestHeartbeatKeepsAnOperatorsStatus(t *testing.T) {
	inBubble(t, func(r *rig) {
		read := func() (w stacyvm.Worker) {
			r.must(r.store.View(r.Context(), func(tx store.Tx) (err error) {
				w, err = tx.Workers().Get(r.Context(), self)
				return err
			}))
			return w
		}
		r.must(r.Heartbeat(r.Context())) // unknown yet
		first := read()
		first.Status, first.Capacity.Drained = "draining", true
		r.update(func(ctx context.Context, tx store.Tx) error { _, err := tx.Workers().Save(ctx, first); return err })
		time.Sleep(heartbeatEvery)
		r.must(r.Heartbeat(r.Context()))
		if second := read(); first.LastHeartbeat.IsZero() || second.Status != "draining" || second.LastHeartbeat.Sub(first.LastHeartbeat) != heartbeatEvery {
			r.Errorf("went from %+v to %+v", first, second)
		}
		r.must(r.session("restarted").Start(r.Context()))
		if third := read(); third.Status != "draining" || !third.Capacity.Drained {
			r.Errorf("a restart made it %+v", third)
		}
		first.Status, first.Capacity.Drained = "offline", false // as a worker says of itself
		r.update(func(ctx context.Context, tx store.Tx) error { _, err := tx.Workers().Save(ctx, first); return err })
		r.must(r.session("again").Start(r.Context()))
		if fourth := read(); fourth.Status != "online" {
			r.Errorf("a start made it %+v", fourth)
		}
	})
}

func TestPurge(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.must(r.Keep(r.Context()))
		claim := store.IdempotencyRecord{Scope: "s", Key: "k", BodyHash: "h"}
		known := func() (record *store.IdempotencyRecord) {
			r.update(func(ctx context.Context, tx store.Tx) (err error) {
				record, err = tx.Idempotency().Begin(ctx, claim)
				return err
			})
			return record
		}
		known()
		claim.Status = 201
		r.update(func(ctx context.Context, tx store.Tx) error { return tx.Idempotency().Finish(ctx, claim) })
		time.Sleep(store.KeyLife - time.Second)
		r.must(r.Purge(r.Context()))
		if known() == nil {
			r.Error("a key was forgotten within its day")
		}
		time.Sleep(2 * time.Second)
		r.must(r.Purge(r.Context()))
		if known() != nil {
			r.Error("a key outlived its day")
		}
	})
}

// TestRun lets all loops go for an hour: sandboxes end in time, the lease of the one that stays
// never lapses, and the runtime of a dead one goes.
func TestRun(t *testing.T) {
	inBubble(t, func(r *rig) {
		interrupted := r.sandbox(in(stacyvm.StateCreating))
		short, long := r.sandbox(lives(20*time.Minute)), r.sandbox(lives(24*time.Hour))
		r.runtime(short, nil)
		r.runtime(long, nil)
		orphan := stacyvm.Sandbox{ID: stacyvm.NewSandboxID(), Fence: stacyvm.Fence{Incarnation: r.cluster.Incarnation, Epoch: 1}}
		r.runtime(orphan, nil)
		ctx, stop := context.WithCancel(r.Context())
		var running sync.WaitGroup
		running.Go(func() {
			if err := r.Reconciler.Run(ctx); err != nil {
				r.Error(err)
			}
		})
		time.Sleep(19 * time.Minute)
		r.expect(short.ID, stacyvm.StateRunning, "", true)
		r.expect(interrupted.ID, stacyvm.StateRunning, "", true)
		if _, there := r.machine.Runtime(orphan.ID); there {
			r.Error("the orphan is still there")
		}
		time.Sleep(time.Minute + 10*time.Second)
		r.expect(short.ID, stacyvm.StateDestroyed, "", false)
		time.Sleep(40 * time.Minute)
		row := r.expect(long.ID, stacyvm.StateRunning, "", true)
		if lease := r.lease(long.ID); lease.Epoch != 2 || row.Fence.Epoch != 2 || time.Until(lease.ExpiresAt) < stacyvm.LeaseTTL/2 {
			r.Errorf("after an hour: fence %v, lease %+v", row.Fence, lease)
		}
		stop()
		running.Wait()
	})
}

// TestRunEndsWhatExpiredFirst: what expired while no server ran, and was ended by the launcher, is
// not there any more when requests are served.
func TestRunEndsWhatExpiredFirst(t *testing.T) {
	inBubble(t, func(r *rig) {
		gone, there := r.sandbox(lives(time.Minute)), r.sandbox(lives(time.Minute))
		r.runtime(there, nil)
		time.Sleep(2 * time.Minute)
		ctx, stop := context.WithCancel(r.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = r.Reconciler.Run(ctx) })
		<-r.Started()
		r.expect(gone.ID, stacyvm.StateDestroyed, "", false)
		r.expect(there.ID, stacyvm.StateDestroyed, "", false)
		stop()
		running.Wait()
	})
}

func TestRunWaitsForItsWorker(t *testing.T) {
	inBubble(t, func(r *rig) {
		row := r.sandbox(nil)
		r.runtime(row, nil)
		r.Reconciler = New(Config{Store: closedStore{r.store}, Worker: r.machine, Self: self, Session: "now"})
		ctx, stop := context.WithCancel(r.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = r.Reconciler.Run(ctx) })
		time.Sleep(time.Minute)
		if r.Recovered() {
			r.Error("recovered without a store")
		}
		stop()
		running.Wait()
	})
}

// closedStore is a store that does not answer.
type closedStore struct{ store.Store }

func (closedStore) View(context.Context, func(store.Tx) error) error   { return errBroken }
func (closedStore) Update(context.Context, func(store.Tx) error) error { return errBroken }

// mortal is a store that one process loses.
type mortal struct {
	store.Store
	dead atomic.Bool
}

func (m *mortal) View(ctx context.Context, read func(store.Tx) error) error {
	if m.dead.Load() {
		return errBroken
	}
	return m.Store.View(ctx, read)
}

func (m *mortal) Update(ctx context.Context, write func(store.Tx) error) error {
	if m.dead.Load() {
		return errBroken
	}
	return m.Store.Update(ctx, write)
}

// TestRunOfTwoControlPlanes lets two of them go on, without workers of their own, beside a worker
// on another machine: what one loses the other takes after lease and grace, and what one lets go
// of at once; sandboxes end in time meanwhile.
func TestRunOfTwoControlPlanes(t *testing.T) {
	inBubble(t, func(r *rig) {
		beat := func() {
			r.update(func(ctx context.Context, tx store.Tx) error {
				_, err := tx.Workers().Save(ctx, stacyvm.Worker{ID: other, Status: "online", Session: "before", Capacity: stacyvm.Capacity{RPCURL: "http://x:1"}})
				return err
			})
		}
		of := func(ttl time.Duration) stacyvm.Sandbox {
			row := r.sandbox(func(row *stacyvm.Sandbox) { row.WorkerID, row.Spec.TTL = other, ttl })
			r.runtime(row, nil)
			return row
		}
		beat()
		ctx, stop := context.WithCancel(r.Context())
		var running sync.WaitGroup
		running.Go(func() {
			for retry.Sleep(ctx, heartbeatEvery) == nil {
				beat()
			}
		})
		start := func(name stacyvm.WorkerID) (*Reconciler, *mortal, context.CancelFunc) {
			s := &mortal{Store: r.store}
			plane := New(Config{Store: s, Self: name, Session: string(name), Workers: func(stacyvm.WorkerID) (worker.Worker, error) { return r.machine, nil }})
			ctx, stop := context.WithCancel(ctx)
			running.Go(func() { _ = plane.Run(ctx) })
			<-plane.Started()
			return plane, s, stop
		}
		a, lost, _ := start("a")
		b, _, leave := start("b")
		holds(r.T, a, upkeep, recovery(other))
		first, second, third := of(10*time.Minute), of(20*time.Minute), of(30*time.Minute)
		time.Sleep(9*time.Minute + 50*time.Second)
		holds(r.T, a, upkeep, recovery(other))
		holds(r.T, b)
		r.expect(first.ID, stacyvm.StateRunning, "", true)
		time.Sleep(20 * time.Second)
		r.expect(first.ID, stacyvm.StateDestroyed, "", false)

		lost.dead.Store(true)
		time.Sleep(stacyvm.LeaseTTL + stacyvm.LeaseGrace/2)
		holds(r.T, a)
		time.Sleep(stacyvm.LeaseGrace + stacyvm.LeaseRenewEvery)
		holds(r.T, b, upkeep, recovery(other))
		time.Sleep(9 * time.Minute)
		r.expect(second.ID, stacyvm.StateDestroyed, "", false)

		lost.dead.Store(false)
		leave()
		time.Sleep(2 * stacyvm.LeaseRenewEvery)
		holds(r.T, b)
		holds(r.T, a, upkeep, recovery(other))
		r.expect(third.ID, stacyvm.StateRunning, "", true)
		stop()
		running.Wait()
		holds(r.T, a)
	})
}
