package reconcile

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// holds says which duties a control plane has.
func holds(t *testing.T, r *Reconciler, want ...string) {
	t.Helper()
	held := r.snapshot()
	for _, name := range want {
		if held[name] == nil {
			t.Errorf("%s does not hold %s", r.self, name)
		}
	}
	if len(held) != len(want) {
		t.Errorf("%s holds %d duties, want %v", r.self, len(held), want)
	}
}

// TestDutiesHaveOneHolder: the first one has them as long as it renews them; who stops loses them
// after lease and grace, and writes nothing any more.
func TestDutiesHaveOneHolder(t *testing.T) {
	onEachDriver(t, func(c *cluster) {
		a, b := c.plane("a"), c.plane("b")
		for range 4 {
			c.must(a.Keep(c.Context()))
			c.must(b.Keep(c.Context()))
			holds(c.T, a, upkeep, recovery(far))
			holds(c.T, b)
			c.advance(stacyvm.LeaseTTL - time.Second)
		}
		row := c.sandbox(time.Hour, stacyvm.StateRunning)
		before := a.holding(recovery(far))
		c.advance(stacyvm.LeaseGrace) // a's renewal is 39 s old
		c.beat()
		c.must(b.Keep(c.Context()))
		holds(c.T, b)
		c.advance(2 * time.Second)
		c.must(b.Keep(c.Context()))
		holds(c.T, b, upkeep, recovery(far))
		if after := b.holding(recovery(far)); after.epoch != before.epoch+1 {
			c.Errorf("the duty's epoch went from %d to %d", before.epoch, after.epoch)
		}
		// a was stopped and goes on: it still believes that it holds them.
		c.machine.Lose(row.ID)
		if err := before.change(c.Context(), row, stacyvm.StateUnhealthy, stacyvm.Cause{Reason: "late"}); stacyvm.CodeOf(err) != stacyvm.CodeStaleEpoch {
			c.Errorf("the former holder wrote: %v", err)
		}
		c.must(before.visit(c.Context()))
		c.expect("after the former holder's pass", row.ID, stacyvm.StateRunning, "", false)
		if err := a.Purge(c.Context()); stacyvm.CodeOf(err) != stacyvm.CodeStaleEpoch {
			c.Errorf("the former holder purged: %v", err)
		}
		c.must(a.Keep(c.Context()))
		holds(c.T, a)
		if before.life.Err() == nil {
			c.Error("the lost duty goes on")
		}
		c.work(b)
		c.expect("after the holder's pass", row.ID, stacyvm.StateUnhealthy, stacyvm.ReasonLost, false)
	})
}

// TestDutiesAreReleased: who ends, and what is no longer needed, lets go at once.
func TestDutiesAreReleased(t *testing.T) {
	onEachDriver(t, func(c *cluster) {
		a, b := c.plane("a"), c.plane("b")
		c.must(a.Keep(c.Context()))
		c.status = "offline"
		c.beat()
		c.must(a.Keep(c.Context()))
		holds(c.T, a, upkeep)
		c.status = "online"
		c.beat()
		c.must(b.Keep(c.Context()))
		holds(c.T, b, recovery(far))
		a.finish(new(sync.WaitGroup))
		holds(c.T, a)
		c.must(b.Keep(c.Context()))
		holds(c.T, b, upkeep, recovery(far))
		// The same control plane, started again after a kill, need not wait for its own leases.
		again := New(Config{Store: c.store, Self: "b", Session: "b-2", Workers: c.worker})
		c.must(again.Keep(c.Context()))
		holds(c.T, again, upkeep, recovery(far))
		c.must(b.Keep(c.Context()))
		holds(c.T, b)
	})
}

// TestSixteenControlPlanes want the same duties at once: each has one holder.
func TestSixteenControlPlanes(t *testing.T) {
	onEachDriver(t, func(c *cluster) {
		planes := make([]*Reconciler, 16)
		var racing sync.WaitGroup
		for i := range planes {
			planes[i] = c.plane(stacyvm.WorkerID('a' + rune(i)))
			racing.Go(func() {
				if err := planes[i].Keep(c.Context()); err != nil {
					c.Error(err)
				}
			})
		}
		racing.Wait()
		holders := map[string]int{}
		for _, p := range planes {
			for name := range p.snapshot() {
				holders[name]++
			}
		}
		if holders[upkeep] != 1 || holders[recovery(far)] != 1 || len(holders) != 2 {
			c.Errorf("holders: %v", holders)
		}
	})
}

// TestOwners is what becomes of a worker's sandboxes by what is known of the worker, and how they
// come back.
func TestOwners(t *testing.T) {
	const stale, unreachable = stacyvm.ReasonWorkerStale, stacyvm.ReasonWorkerUnreachable
	tests := []struct {
		name string
		turn func(*cluster) // makes the worker so
		// of one whose time has not passed, and of one whose time has
		state, expired stacyvm.State
		reason, late   stacyvm.Reason
		runtime        bool // of the expired one
	}{
		{"online", func(c *cluster) { c.beat() }, stacyvm.StateRunning, stacyvm.StateDestroyed, "", "", false},
		{"draining", func(c *cluster) { c.status = "draining"; c.beat() }, stacyvm.StateRunning, stacyvm.StateDestroyed, "", "", false},
		{"starting", func(c *cluster) { c.status = "starting"; c.beat() }, stacyvm.StateRunning, stacyvm.StateDestroyed, "", "", false},
		{"stale", func(*cluster) {}, stacyvm.StateUnhealthy, stacyvm.StateExpired, stale, stale, true},
		{"offline", func(c *cluster) { c.status = "offline"; c.beat() }, stacyvm.StateUnhealthy, stacyvm.StateExpired, stale, stale, true},
		{"another status", func(c *cluster) { c.status = "unhealthy"; c.beat() }, stacyvm.StateUnhealthy, stacyvm.StateExpired, stale, stale, true},
		{"missing", func(c *cluster) {
			c.update(func(ctx context.Context, tx store.Tx) error { return tx.Workers().Delete(ctx, far) })
		}, stacyvm.StateUnhealthy, stacyvm.StateDestroyed, stale, stacyvm.ReasonLost, true},
		{"out of reach", func(c *cluster) { c.beat(); c.cut.Store(true) }, stacyvm.StateUnhealthy, stacyvm.StateExpired, unreachable, "", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			onEachDriver(t, func(c *cluster) {
				plane := c.plane("a")
				c.work(plane)
				long, short := c.sandbox(time.Hour, stacyvm.StateRunning), c.sandbox(time.Minute, stacyvm.StateRunning)
				c.advance(stacyvm.WorkerStaleAfter + time.Second)
				tt.turn(c)
				for range patience + 1 {
					c.work(plane)
				}
				c.expect("not expired", long.ID, tt.state, tt.reason, true)
				c.expect("expired", short.ID, tt.expired, tt.late, tt.runtime)
				if lease := c.lease(string(short.ID)); lease.Holder != "" {
					c.Errorf("the lease of the expired one is %+v", lease)
				}
				if lease := c.lease(string(long.ID)); lease.Holder != far {
					c.Errorf("the lease of the other is %+v", lease)
				}
				// It comes back, as another process of the same worker.
				c.status, c.session = "online", "far-2"
				c.cut.Store(false)
				c.beat()
				for range 3 {
					c.work(plane)
				}
				row := c.expect("not expired, back", long.ID, stacyvm.StateRunning, "", true)
				c.expect("expired, back", short.ID, stacyvm.StateDestroyed, tt.late, false)
				if lease := c.lease(string(long.ID)); row.Fence.Epoch <= long.Fence.Epoch || lease.Epoch != row.Fence.Epoch || lease.Session != "far-2" {
					c.Errorf("back under %v (before %v), lease %+v", row.Fence, long.Fence, lease)
				}
				if _, destroys, present := c.machine.Counts(); destroys != 1 || present != 1 {
					c.Errorf("%d were destroyed, %d are there", destroys, present)
				}
			})
		})
	}
}

// TestNotOursAnyMore: what a far worker still has of a sandbox that ended, went to another worker
// or has no row goes after two sightings, with a fence that the worker knows; what is being
// created there is left to its maker until the deadline.
func TestNotOursAnyMore(t *testing.T) {
	onEachDriver(t, func(c *cluster) {
		plane := c.plane("a")
		tombstone, given := c.sandbox(time.Hour, stacyvm.StateDestroyed), c.sandbox(time.Hour, stacyvm.StateRunning)
		making := c.sandbox(time.Hour, stacyvm.StateRunning)
		orphan := stacyvm.Sandbox{ID: stacyvm.NewSandboxID(), Fence: stacyvm.Fence{Incarnation: c.identity.Incarnation, Epoch: 1}}
		c.runtime(orphan)
		c.machine.Lose(making.ID)
		c.update(func(ctx context.Context, tx store.Tx) error {
			if _, err := tx.Workers().Save(ctx, stacyvm.Worker{ID: "near", Status: "online"}); err != nil {
				return err
			}
			if err := tx.Leases().Release(ctx, string(given.ID), far, given.Fence.Epoch); err != nil {
				return err
			}
			_, err := tx.Leases().Acquire(ctx, store.LeaseRequest{Resource: string(given.ID), Type: "sandbox", Holder: "near", Session: "near-1", TTL: time.Hour})
			return err
		})
		var fences sync.Map // one pass destroys several at once
		c.machine.BeforeDestroy = func(_ context.Context, ref stacyvm.Ref) error { fences.Store(ref.ID, ref.Fence); return nil }
		c.advance(orphanAge + time.Second)
		c.beat()
		c.work(plane)
		for _, row := range []stacyvm.Sandbox{tombstone, given, orphan} {
			if _, there := c.machine.Runtime(row.ID); !there {
				c.Errorf("%s went at first sight", row.ID)
			}
		}
		c.work(plane)
		for _, row := range []stacyvm.Sandbox{tombstone, given, orphan} {
			fence, _ := fences.Load(row.ID)
			if _, there := c.machine.Runtime(row.ID); there || fence != row.Fence {
				c.Errorf("%s is there: %v, was destroyed with %v, the worker knows %v", row.ID, there, fence, row.Fence)
			}
		}
		c.expect("given away", given.ID, stacyvm.StateRunning, "", false)
		c.expect("lost", making.ID, stacyvm.StateUnhealthy, stacyvm.ReasonLost, false)
	})
}

// TestCreatesElsewhere: a create that another control plane is making on a far worker is left
// alone, adopted when it is there, and failed after its deadline.
func TestCreatesElsewhere(t *testing.T) {
	onEachDriver(t, func(c *cluster) {
		plane := c.plane("a")
		creating := func() stacyvm.Sandbox {
			row := stacyvm.Sandbox{
				ID: stacyvm.NewSandboxID(), State: stacyvm.StateCreating, Desired: stacyvm.DesiredRunning, Provider: "mock", Image: "host",
				Spec: stacyvm.Spec{Provider: "mock", Image: "host", TTL: time.Hour}, WorkerID: far, Fence: stacyvm.Fence{Incarnation: c.identity.Incarnation},
			}
			c.update(func(ctx context.Context, tx store.Tx) (err error) {
				if row, err = tx.Sandboxes().Insert(ctx, row); err != nil {
					return err
				}
				lease, err := tx.Leases().Acquire(ctx, store.LeaseRequest{Resource: string(row.ID), Type: "sandbox", Holder: far, Session: c.session, TTL: stacyvm.LeaseTTL})
				row.Fence.Epoch = lease.Epoch
				return err
			})
			return row
		}
		underWay, done := creating(), creating()
		c.runtime(done)
		c.work(plane)
		c.expect("under way", underWay.ID, stacyvm.StateCreating, "", false)
		c.expect("done", done.ID, stacyvm.StateRunning, "", true)
		c.advance(stacyvm.CreateAbandonedAfter + time.Second)
		c.beat()
		c.work(plane)
		c.expect("abandoned", underWay.ID, stacyvm.StateDestroyed, stacyvm.ReasonCreateFailed, false)
	})
}

// TestUnreachableOnce: one pass that fails says nothing of the sandboxes, and neither does a
// worker that answers with a trouble of its own.
func TestUnreachableOnce(t *testing.T) {
	onEachDriver(t, func(c *cluster) {
		plane := c.plane("a")
		row := c.sandbox(time.Hour, stacyvm.StateRunning)
		for range 3 {
			c.cut.Store(true)
			c.work(plane)
			c.cut.Store(false)
			c.work(plane)
		}
		c.machine.BeforeInventory = func(context.Context) error { return stacyvm.Errorf(stacyvm.CodeInternal, "its engine cannot list") }
		for range 3 {
			if err := plane.holding(recovery(far)).visit(c.Context()); stacyvm.CodeOf(err) != stacyvm.CodeInternal {
				c.Errorf("a pass without an inventory: %v", err)
			}
		}
		c.expect("after blinks", row.ID, stacyvm.StateRunning, "", true)
	})
}

// TestPurgeOfTheAdministratorsAudit keeps it for as long as is configured, and for ever without.
func TestPurgeOfTheAdministratorsAudit(t *testing.T) {
	onEachDriver(t, func(c *cluster) {
		kept := func() (n int) {
			c.must(c.store.View(c.Context(), func(tx store.Tx) error {
				lines, err := tx.AdminAudit().List(c.Context(), store.AdminFilter{})
				n = len(lines)
				return err
			}))
			return n
		}
		c.update(func(ctx context.Context, tx store.Tx) error {
			return tx.AdminAudit().Append(ctx, []stacyvm.AdminCall{{Actor: "admin", Method: "GET", Path: "/x", Status: 200}})
		})
		forever := c.plane("a")
		c.must(forever.Keep(c.Context()))
		c.advance(1000 * time.Hour)
		c.beat()
		c.must(forever.Keep(c.Context()))
		c.must(forever.Purge(c.Context()))
		if kept() != 1 {
			c.Error("it is not kept for ever")
		}
		forever.finish(new(sync.WaitGroup))
		bounded := New(Config{Store: c.store, Self: "b", Session: "b-1", AuditRetention: 2000 * time.Hour})
		c.must(bounded.Keep(c.Context()))
		c.must(bounded.Purge(c.Context()))
		if kept() != 1 {
			c.Error("it is not kept for as long as it should be")
		}
		c.advance(1000*time.Hour + time.Minute)
		c.must(bounded.Keep(c.Context()))
		c.must(bounded.Purge(c.Context()))
		if kept() != 0 {
			c.Error("it is kept for longer")
		}
	})
}

// TestLostWhileAway: a sandbox whose worker comes back without it is told to be lost.
func TestLostWhileAway(t *testing.T) {
	onEachDriver(t, func(c *cluster) {
		plane := c.plane("a")
		row := c.sandbox(time.Hour, stacyvm.StateRunning)
		c.advance(stacyvm.WorkerStaleAfter + time.Second)
		c.work(plane)
		c.expect("away", row.ID, stacyvm.StateUnhealthy, stacyvm.ReasonWorkerStale, true)
		c.machine.Lose(row.ID)
		c.beat()
		c.work(plane)
		c.expect("back", row.ID, stacyvm.StateUnhealthy, stacyvm.ReasonLost, false)
		c.runtime(row)
		c.work(plane)
		c.expect("found", row.ID, stacyvm.StateRunning, "", true)
	})
}

// TestPurgeOfJoinTokens keeps them for a while after their end.
func TestPurgeOfJoinTokens(t *testing.T) {
	onEachDriver(t, func(c *cluster) {
		plane := c.plane("a")
		c.update(func(ctx context.Context, tx store.Tx) error {
			now, err := tx.Now(ctx)
			if err != nil {
				return err
			}
			_, err = tx.JoinTokens().Create(ctx, stacyvm.JoinToken{ID: "t", Worker: "*", CreatedAt: now, ExpiresAt: now.Add(time.Hour)})
			return err
		})
		for _, want := range []int{1, 0} {
			c.advance(time.Hour + tokensKept/2 + time.Minute)
			c.must(plane.Keep(c.Context()))
			c.must(plane.Purge(c.Context()))
			c.must(c.store.View(c.Context(), func(tx store.Tx) error {
				kept, err := tx.JoinTokens().List(c.Context(), store.Page{})
				if len(kept) != want {
					c.Errorf("%d tokens are kept, want %d", len(kept), want)
				}
				return err
			}))
		}
	})
}
