package reconcile

import (
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

var (
	noon    = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)
	ours    = store.Cluster{ID: "ours", Incarnation: 2}
	present = stacyvm.Fence{Incarnation: 2, Epoch: 5}
)

// aRow is a healthy running row of worker "me"; aRuntime what fits to it.
func aRow(change func(*stacyvm.Sandbox)) *stacyvm.Sandbox {
	row := &stacyvm.Sandbox{
		State: stacyvm.StateRunning, Desired: stacyvm.DesiredRunning, WorkerID: "me", Fence: present,
		CreatedAt: noon.Add(-10 * time.Second), UpdatedAt: noon.Add(-10 * time.Second), ExpiresAt: noon.Add(time.Hour),
	}
	if change != nil {
		change(row)
	}
	return row
}

func aRuntime(change func(*worker.Runtime)) *worker.Runtime {
	runtime := &worker.Runtime{Fence: present, Cluster: "ours", Phase: worker.PhaseRunning, CreatedAt: noon.Add(-10 * time.Second)}
	if change != nil {
		change(runtime)
	}
	return runtime
}

func in(state stacyvm.State) func(*stacyvm.Sandbox) {
	return func(row *stacyvm.Sandbox) { row.State = state }
}

func inPhase(phase worker.Phase) func(*worker.Runtime) {
	return func(runtime *worker.Runtime) { runtime.Phase = phase }
}

func made(ago time.Duration, fence stacyvm.Fence) func(*worker.Runtime) {
	return func(runtime *worker.Runtime) { runtime.CreatedAt, runtime.Fence = noon.Add(-ago), fence }
}

// TestDecide is the recovery table, row by row.
func TestDecide(t *testing.T) {
	late := func(row *stacyvm.Sandbox) {
		row.State, row.UpdatedAt = stacyvm.StateCreating, noon.Add(-stacyvm.CreateAbandonedAfter-time.Second)
	}
	unwanted := func(state stacyvm.State) func(*stacyvm.Sandbox) {
		return func(row *stacyvm.Sandbox) { row.State, row.Desired = state, stacyvm.DesiredDestroyed }
	}
	away := func(reason stacyvm.Reason) func(*stacyvm.Sandbox) {
		return func(row *stacyvm.Sandbox) { row.State, row.Reason = stacyvm.StateUnhealthy, reason }
	}
	elsewhere := func(row *stacyvm.Sandbox) { row.WorkerID = "other" }
	older := stacyvm.Fence{Incarnation: 2, Epoch: 4}
	newer := stacyvm.Fence{Incarnation: 2, Epoch: 6}
	earlier := stacyvm.Fence{Incarnation: 1, Epoch: 9}
	later := stacyvm.Fence{Incarnation: 3, Epoch: 1}
	foreign := func(runtime *worker.Runtime) { runtime.Cluster = "theirs" }
	unlabelled := func(runtime *worker.Runtime) { runtime.Cluster = "" }

	over := func(state stacyvm.State) func(*stacyvm.Sandbox) {
		return func(row *stacyvm.Sandbox) { row.State, row.ExpiresAt = state, noon }
	}
	running, unhealthy := over(stacyvm.StateRunning), over(stacyvm.StateUnhealthy)
	ended := func(r *worker.Runtime) { inPhase(worker.PhaseDead)(r); r.Cause.Reason = stacyvm.ReasonExpired }

	tests := []struct {
		name        string
		row         *stacyvm.Sandbox
		runtime     *worker.Runtime
		interrupted bool
		want        action
	}{
		{"creating, its maker at work, nothing yet", aRow(in(stacyvm.StateCreating)), nil, false, none},
		{"creating, its maker at work, half made", aRow(in(stacyvm.StateCreating)), aRuntime(inPhase(worker.PhaseCreating)), false, none},
		{"creating, interrupted, nothing there", aRow(in(stacyvm.StateCreating)), nil, true, resend},
		{"creating, interrupted, half made", aRow(in(stacyvm.StateCreating)), aRuntime(inPhase(worker.PhaseCreating)), true, resend},
		{"creating, interrupted, dead", aRow(in(stacyvm.StateCreating)), aRuntime(inPhase(worker.PhaseDead)), true, fail},
		{"creating, the runtime answers", aRow(in(stacyvm.StateCreating)), aRuntime(nil), false, adopt},
		{"creating, it answers, made under our last epoch", aRow(in(stacyvm.StateCreating)), aRuntime(made(time.Minute, older)), true, adopt},
		{"creating after the deadline, nothing there", aRow(late), nil, true, fail},
		{"creating after the deadline, it answers", aRow(late), aRuntime(nil), false, fail},
		{"creating long ago, in a backup; it answers", aRow(late), aRuntime(made(time.Hour, earlier)), true, adopt},
		{"creating long ago, in a backup; it does not answer", aRow(late), aRuntime(func(r *worker.Runtime) { inPhase(worker.PhaseSilent)(r); r.Fence = earlier }), true, fail},
		{"creating and unwanted", aRow(unwanted(stacyvm.StateCreating)), aRuntime(nil), false, finish},

		{"running and well", aRow(nil), aRuntime(nil), false, none},
		{"running, made under our last epoch", aRow(nil), aRuntime(made(time.Hour, older)), false, none},
		{"running, nothing there", aRow(nil), nil, false, markLost},
		{"running, dead", aRow(nil), aRuntime(inPhase(worker.PhaseDead)), false, markDead},
		{"running, does not answer", aRow(nil), aRuntime(inPhase(worker.PhaseSilent)), false, markUnresponsive},
		{"running and unwanted", aRow(unwanted(stacyvm.StateRunning)), aRuntime(nil), false, finish},
		{"running and unwanted, gone already", aRow(unwanted(stacyvm.StateRunning)), nil, false, finish},

		{"running, expired, ended by its machine", aRow(running), aRuntime(ended), false, none},
		{"paused, expired, ended by its machine", aRow(over(stacyvm.StatePaused)), aRuntime(ended), false, none},
		{"unhealthy, expired, ended by its machine", aRow(unhealthy), aRuntime(ended), false, none},
		{"running, expired, dead before", aRow(running), aRuntime(inPhase(worker.PhaseDead)), false, markDead},
		{"running, extended, ended by its machine", aRow(nil), aRuntime(ended), false, markDead},
		{"unwanted, ended by its machine", aRow(unwanted(stacyvm.StateRunning)), aRuntime(ended), false, finish},

		{"lost, its runtime is back", aRow(in(stacyvm.StateUnhealthy)), aRuntime(nil), false, restore},
		{"lost, still nothing", aRow(in(stacyvm.StateUnhealthy)), nil, false, none},
		{"its worker is back without it", aRow(away(stacyvm.ReasonWorkerStale)), nil, false, updateReason},
		{"its worker is back with what is left of it", aRow(away(stacyvm.ReasonWorkerUnreachable)), aRuntime(inPhase(worker.PhaseDead)), false, updateReason},
		{"its worker is back and it does not answer yet", aRow(away(stacyvm.ReasonWorkerStale)), aRuntime(inPhase(worker.PhaseSilent)), false, none},
		{"its worker is back with it", aRow(away(stacyvm.ReasonWorkerStale)), aRuntime(nil), false, restore},
		{"unhealthy, still no answer", aRow(in(stacyvm.StateUnhealthy)), aRuntime(inPhase(worker.PhaseSilent)), false, none},
		{"paused", aRow(in(stacyvm.StatePaused)), aRuntime(nil), false, none},
		{"paused, on disk", aRow(in(stacyvm.StatePaused)), nil, false, none},
		{"expired belongs to the reaper", aRow(in(stacyvm.StateExpired)), aRuntime(nil), false, none},
		{"error with leftovers", aRow(in(stacyvm.StateError)), aRuntime(inPhase(worker.PhaseDead)), false, clean},
		{"error, nothing left", aRow(in(stacyvm.StateError)), nil, false, none},
		{"error and unwanted", aRow(unwanted(stacyvm.StateError)), aRuntime(nil), false, finish},

		{"runs elsewhere", aRow(elsewhere), aRuntime(nil), false, kill},
		{"runs elsewhere, says a backup", aRow(elsewhere), aRuntime(made(time.Hour, earlier)), false, warn},
		{"tombstone with a runtime of an earlier incarnation", aRow(in(stacyvm.StateDestroyed)), aRuntime(made(time.Hour, earlier)), false, kill},
		{"running, confirmed in an earlier incarnation", aRow(nil), aRuntime(made(time.Hour, earlier)), false, none},
		{"lost in a backup, it answers", aRow(in(stacyvm.StateUnhealthy)), aRuntime(made(time.Hour, earlier)), false, restore},
		{"tombstone with a runtime", aRow(in(stacyvm.StateDestroyed)), aRuntime(nil), false, kill},
		{"tombstone", aRow(in(stacyvm.StateDestroyed)), nil, false, none},
		{"the store is older than the runtime", aRow(nil), aRuntime(made(time.Hour, newer)), false, warn},
		{"unwanted, but the store is older", aRow(unwanted(stacyvm.StateRunning)), aRuntime(made(time.Hour, newer)), false, warn},

		{"no row, young", nil, aRuntime(made(orphanAge, present)), false, none},
		{"no row, old", nil, aRuntime(made(orphanAge+time.Second, present)), false, kill},
		{"no row, old and dead", nil, aRuntime(func(r *worker.Runtime) { inPhase(worker.PhaseDead)(r); made(time.Hour, present)(r) }), false, kill},
		{"no row, of an earlier incarnation", nil, aRuntime(made(time.Hour, earlier)), false, readmit},
		{"no row, of a later incarnation", nil, aRuntime(made(time.Hour, later)), false, warn},

		{"another cluster's, no row", nil, aRuntime(foreign), false, warn},
		{"another cluster's, tombstone", aRow(in(stacyvm.StateDestroyed)), aRuntime(foreign), false, warn},
		{"another cluster's, unwanted row", aRow(unwanted(stacyvm.StateRunning)), aRuntime(foreign), false, warn},
		{"no label", nil, aRuntime(unlabelled), false, warn},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := decide(view{row: tt.row, runtime: tt.runtime, interrupted: tt.interrupted, now: noon, self: "me", cluster: ours})
			if got != tt.want {
				t.Errorf("decided %q, want %q", got, tt.want)
			}
		})
	}
}

// TestActionsLeadToAllowedStates guards against a table that asks for a change which the state
// machine refuses.
func TestActionsLeadToAllowedStates(t *testing.T) {
	next := map[action]stacyvm.State{
		adopt: stacyvm.StateRunning, resend: stacyvm.StateRunning, restore: stacyvm.StateRunning, fail: stacyvm.StateDestroyed,
		markLost: stacyvm.StateUnhealthy, markUnresponsive: stacyvm.StateUnhealthy, markDead: stacyvm.StateError, finish: stacyvm.StateDestroyed,
	}
	runtimes := []*worker.Runtime{nil, aRuntime(nil), aRuntime(inPhase(worker.PhaseDead)), aRuntime(inPhase(worker.PhaseSilent)), aRuntime(inPhase(worker.PhaseCreating))}
	for _, state := range stacyvm.States {
		for _, runtime := range runtimes {
			for _, interrupted := range []bool{true, false} {
				for _, desired := range []stacyvm.Desired{stacyvm.DesiredRunning, stacyvm.DesiredDestroyed} {
					row := aRow(func(row *stacyvm.Sandbox) { row.State, row.Desired = state, desired })
					got := decide(view{row: row, runtime: runtime, interrupted: interrupted, now: noon, self: "me", cluster: ours})
					if to, changes := next[got]; changes && !state.CanBecome(to) {
						t.Errorf("%s from %s leads to %s, which is not allowed", got, state, to)
					}
				}
			}
		}
	}
}
