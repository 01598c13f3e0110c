package reconcile

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

func TestAdopt(t *testing.T) {
	inBubble(t, func(r *rig) {
		row := r.sandbox(in(stacyvm.StateCreating))
		r.runtime(row, nil)
		r.recover()
		after := r.expect(row.ID, stacyvm.StateRunning, "", true)
		if after.RuntimeID != "rt-"+string(row.ID) || !slices.Equal(after.Unenforced, []stacyvm.Limit{stacyvm.LimitDisk}) || after.Fence != row.Fence {
			r.Errorf("adopted as %+v", after)
		}
	})
}

func TestCreateOfThisProcessIsLeftAlone(t *testing.T) {
	inBubble(t, func(r *rig) {
		row := r.sandbox(in(stacyvm.StateCreating))
		r.recover()
		r.expect(row.ID, stacyvm.StateCreating, "", false)
	})
}

func TestResend(t *testing.T) {
	inBubble(t, func(r *rig) {
		row := r.sandbox(in(stacyvm.StateCreating))
		r.must(r.Start(r.Context())) // a later process: the create has no maker
		r.machine.BeforeCreate = func(context.Context, stacyvm.Ref) error { return errBroken }
		r.recover()
		r.expect(row.ID, stacyvm.StateCreating, "", false)
		r.machine.BeforeCreate = nil
		r.recover()
		after := r.expect(row.ID, stacyvm.StateRunning, "", true)
		runtime, _ := r.machine.Runtime(row.ID)
		if after.Fence.Epoch != row.Fence.Epoch+1 || runtime.Fence != after.Fence {
			r.Errorf("the row's fence is %v, the runtime's %v, before %v", after.Fence, runtime.Fence, row.Fence)
		}
		if runtime.Request.OwnerID != "ann" || runtime.Request.TenantID != "acme" || runtime.Cluster != r.cluster.ID || !runtime.Request.ExpiresAt.Equal(row.ExpiresAt) {
			r.Errorf("sent again as %+v", runtime.Request)
		}
		r.recover()
		if creates, _, _ := r.machine.Counts(); creates != 1 {
			r.Errorf("made %d times", creates)
		}
	})
}

func TestFail(t *testing.T) {
	inBubble(t, func(r *rig) {
		row := r.sandbox(in(stacyvm.StateCreating))
		r.runtime(row, inPhase(worker.PhaseCreating))
		time.Sleep(stacyvm.CreateAbandonedAfter + time.Second)
		r.recover()
		r.expect(row.ID, stacyvm.StateDestroyed, stacyvm.ReasonCreateFailed, false)
		if lease := r.lease(row.ID); lease.Holder != "" {
			r.Errorf("its lease is held by %s", lease.Holder)
		}
	})
}

// TestFailWithLeftovers keeps the row for as long as something of the create is there.
func TestFailWithLeftovers(t *testing.T) {
	inBubble(t, func(r *rig) {
		row := r.sandbox(in(stacyvm.StateCreating))
		r.runtime(row, inPhase(worker.PhaseDead))
		r.must(r.Start(r.Context()))
		r.machine.BeforeDestroy = func(context.Context, stacyvm.Ref) error { return errBroken }
		r.recover()
		r.expect(row.ID, stacyvm.StateError, stacyvm.ReasonCreateFailed, true)
		r.machine.BeforeDestroy = nil
		r.recover()
		r.expect(row.ID, stacyvm.StateDestroyed, stacyvm.ReasonCreateFailed, false)
	})
}

func TestMarkLostAndRestore(t *testing.T) {
	inBubble(t, func(r *rig) {
		row := r.sandbox(nil)
		r.runtime(row, nil)
		lost := r.machine.Lose(row.ID)
		r.recover()
		r.expect(row.ID, stacyvm.StateUnhealthy, stacyvm.ReasonLost, false)
		r.recover()
		r.expect(row.ID, stacyvm.StateUnhealthy, stacyvm.ReasonLost, false)
		r.machine.Put(lost)
		r.must(r.Start(r.Context()))
		raised := r.row(row.ID).Fence
		r.recover()
		after := r.expect(row.ID, stacyvm.StateRunning, "", true)
		if after.Fence.Compare(raised) <= 0 || r.lease(row.ID).Epoch != after.Fence.Epoch {
			r.Errorf("given back under %v, lease %+v, before %v", after.Fence, r.lease(row.ID), raised)
		}
	})
}

func TestUnresponsiveNeedsTwoSightings(t *testing.T) {
	inBubble(t, func(r *rig) {
		row := r.sandbox(nil)
		r.runtime(row, inPhase(worker.PhaseSilent))
		r.recover()
		r.expect(row.ID, stacyvm.StateRunning, "", true)
		r.runtime(row, nil) // it was only busy
		r.recover()
		r.runtime(row, inPhase(worker.PhaseSilent))
		r.recover()
		r.expect(row.ID, stacyvm.StateRunning, "", true)
		r.recover()
		r.expect(row.ID, stacyvm.StateUnhealthy, stacyvm.ReasonNoAnswer, true)
	})
}

func TestMarkDead(t *testing.T) {
	inBubble(t, func(r *rig) {
		row := r.sandbox(nil)
		r.runtime(row, inPhase(worker.PhaseDead))
		r.recover()
		r.expect(row.ID, stacyvm.StateError, stacyvm.ReasonRuntimeDied, true)
		r.recover()
		r.recover()
		r.expect(row.ID, stacyvm.StateError, stacyvm.ReasonRuntimeDied, false)
	})
}

func TestFinish(t *testing.T) {
	inBubble(t, func(r *rig) {
		unwanted := func(state stacyvm.State) func(*stacyvm.Sandbox) {
			return func(row *stacyvm.Sandbox) { row.State, row.Desired = state, stacyvm.DesiredDestroyed }
		}
		var rows []stacyvm.Sandbox
		for _, state := range []stacyvm.State{stacyvm.StateCreating, stacyvm.StateRunning, stacyvm.StatePaused, stacyvm.StateUnhealthy, stacyvm.StateExpired, stacyvm.StateError} {
			row := r.sandbox(unwanted(state))
			r.runtime(row, nil)
			rows = append(rows, row, r.sandbox(unwanted(state))) // the second has no runtime any more
		}
		r.recover()
		for _, row := range rows {
			r.expect(row.ID, stacyvm.StateDestroyed, "", false)
		}
	})
}

// TestKillNeedsTwoSightings has every kind of runtime without an owner here.
func TestKillNeedsTwoSightings(t *testing.T) {
	inBubble(t, func(r *rig) {
		tombstone := r.sandbox(in(stacyvm.StateDestroyed))
		elsewhere := r.sandbox(func(row *stacyvm.Sandbox) { row.WorkerID = other })
		orphan := stacyvm.Sandbox{ID: stacyvm.NewSandboxID(), Fence: stacyvm.Fence{Incarnation: r.cluster.Incarnation, Epoch: 1}}
		all := []stacyvm.Sandbox{tombstone, elsewhere, orphan}
		for _, row := range all {
			r.runtime(row, nil)
		}
		time.Sleep(orphanAge + time.Second)
		r.recover()
		for _, row := range all {
			if _, there := r.machine.Runtime(row.ID); !there {
				r.Fatalf("%s was killed at first sight", row.ID)
			}
		}
		r.machine.BeforeInventory = func(context.Context) error { return errBroken }
		if err := r.Recover(r.Context()); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
			r.Errorf("without an inventory: %v", err)
		}
		if _, _, present := r.machine.Counts(); present != len(all) {
			r.Fatal("a kill without an inventory")
		}
		r.machine.BeforeInventory = nil
		r.recover()
		if _, destroys, present := r.machine.Counts(); present != 0 || destroys != len(all) {
			r.Errorf("%d runtimes are left, %d were destroyed", present, destroys)
		}
		r.expect(tombstone.ID, stacyvm.StateDestroyed, "", false)
		r.expect(elsewhere.ID, stacyvm.StateRunning, "", false) // its owner decides
	})
}

func TestNoKillWhenARowAppears(t *testing.T) {
	inBubble(t, func(r *rig) {
		row := stacyvm.Sandbox{ID: stacyvm.NewSandboxID(), Fence: stacyvm.Fence{Incarnation: r.cluster.Incarnation, Epoch: 1}}
		r.runtime(row, nil)
		time.Sleep(orphanAge + time.Second)
		r.recover()
		r.machine.BeforeInventory = func(context.Context) error { // after the rows were read
			r.machine.BeforeInventory = nil
			r.sandbox(func(s *stacyvm.Sandbox) { s.ID = row.ID })
			return nil
		}
		r.recover()
		r.expect(row.ID, stacyvm.StateRunning, "", true)
	})
}

func TestYoungRuntimeWithoutARowIsLeft(t *testing.T) {
	inBubble(t, func(r *rig) {
		row := stacyvm.Sandbox{ID: stacyvm.NewSandboxID(), Fence: stacyvm.Fence{Incarnation: r.cluster.Incarnation, Epoch: 1}}
		r.runtime(row, nil)
		for range 3 {
			r.recover()
			time.Sleep(recoverEvery)
		}
		if _, there := r.machine.Runtime(row.ID); !there {
			r.Error("a runtime younger than a minute was killed")
		}
	})
}

func TestReadmit(t *testing.T) {
	inBubble(t, func(r *rig) {
		earlier := stacyvm.Fence{Incarnation: r.cluster.Incarnation - 1, Epoch: 7}
		spec := stacyvm.Spec{Provider: "mock", Image: "host", MemoryMB: 512, TTL: time.Hour}
		from := func(expires time.Duration, change func(*worker.Runtime)) stacyvm.SandboxID {
			row := stacyvm.Sandbox{ID: stacyvm.NewSandboxID(), Fence: earlier, Spec: spec, OwnerID: "ann", TenantID: "acme", ExpiresAt: time.Now().Add(expires)}
			r.runtime(row, change)
			return row.ID
		}
		well, late, mute, dead := from(10*time.Minute, nil), from(-time.Hour, nil), from(time.Hour, inPhase(worker.PhaseSilent)), from(time.Hour, inPhase(worker.PhaseDead))
		r.recover()
		row := r.expect(well, stacyvm.StateRunning, "", true)
		if !row.Recovered || row.OwnerID != "ann" || row.TenantID != "acme" || row.WorkerID != self || row.Spec.MemoryMB != 512 {
			r.Errorf("recovered as %+v", row)
		}
		if row.Fence.Compare(earlier) <= 0 || time.Until(row.ExpiresAt) != 10*time.Minute || r.audited(well, "sandbox.recover") != 1 {
			r.Errorf("fence %v, expires in %s, %d audit lines", row.Fence, time.Until(row.ExpiresAt), r.audited(well, "sandbox.recover"))
		}
		if lease := r.lease(well); lease.Holder != self || lease.Session != "now" || lease.Epoch != row.Fence.Epoch {
			r.Errorf("its lease is %+v", lease)
		}
		if row := r.expect(late, stacyvm.StateRunning, "", true); time.Until(row.ExpiresAt) != recoveredTTL {
			r.Errorf("the late one expires in %s", time.Until(row.ExpiresAt))
		}
		r.expect(mute, stacyvm.StateUnhealthy, stacyvm.ReasonNoAnswer, true)
		r.expect(dead, stacyvm.StateError, stacyvm.ReasonRuntimeDied, true)
		r.recover()
		r.expect(well, stacyvm.StateRunning, "", true)
	})
}

// TestWarnTouchesNothing covers what belongs to another cluster, to nobody, or to a later time
// than the store.
func TestWarnTouchesNothing(t *testing.T) {
	inBubble(t, func(r *rig) {
		theirs := stacyvm.Sandbox{ID: stacyvm.NewSandboxID(), Fence: present}
		r.runtime(theirs, func(runtime *worker.Runtime) { runtime.Cluster = "theirs" })
		unlabelled := stacyvm.Sandbox{ID: stacyvm.NewSandboxID()}
		r.runtime(unlabelled, func(runtime *worker.Runtime) { runtime.Cluster = "" })
		ahead := r.sandbox(func(row *stacyvm.Sandbox) { row.Desired = stacyvm.DesiredDestroyed })
		r.runtime(ahead, func(runtime *worker.Runtime) { runtime.Fence.Epoch += 9 })
		for range 3 {
			time.Sleep(2 * orphanAge)
			r.recover()
		}
		if _, destroys, present := r.machine.Counts(); destroys != 0 || present != 3 {
			r.Errorf("%d were destroyed, %d are there", destroys, present)
		}
		r.expect(ahead.ID, stacyvm.StateRunning, "", true)
		r.must(r.store.View(r.Context(), func(tx store.Tx) error {
			if n, err := tx.Sandboxes().Count(r.Context(), store.SandboxFilter{}); n != 1 || err != nil {
				r.Errorf("%d rows, %v", n, err)
			}
			return nil
		}))
	})
}

// TestRecoverMeetsAChange: a row that changed between the comparison and the action is nothing to
// warn of, and nothing was done that could be told.
func TestRecoverMeetsAChange(t *testing.T) {
	for name, change := range map[string]struct {
		before, after stacyvm.State
		runtime       func(*worker.Runtime)
	}{
		"a create that was just confirmed":  {stacyvm.StateCreating, stacyvm.StateRunning, nil},
		"a lost one that was just buried":   {stacyvm.StateRunning, stacyvm.StateDestroyed, func(r *worker.Runtime) { r.Phase = worker.PhaseDead }},
		"a failed one that was just buried": {stacyvm.StateUnhealthy, stacyvm.StateDestroyed, nil},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(r *rig) {
				var log strings.Builder
				r.Reconciler = New(Config{
					Store: r.store, Worker: r.machine, Self: self, Session: "now", Hostname: "host",
					Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelWarn})),
				})
				row := r.sandbox(in(change.before))
				r.runtime(row, change.runtime)
				r.machine.BeforeInventory = func(context.Context) error {
					r.update(func(ctx context.Context, tx store.Tx) error {
						_, err := tx.Sandboxes().Apply(ctx, row.ID, row.Fence, store.Change{State: change.after})
						return err
					})
					return nil
				}
				r.recover()
				if log.Len() > 0 {
					t.Errorf("it warns: %s", log.String())
				}
				for _, told := range r.told(row.ID) {
					if strings.HasPrefix(told, string(stacyvm.KindReconcile)) {
						t.Errorf("it tells of %q", told)
					}
				}
			})
		})
	}
}
