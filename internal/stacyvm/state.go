package stacyvm

import "slices"

// State is where a sandbox is in its life. Clients know these names.
type State string

const (
	// StateCreating means that row and reservation are written, the runtime is not confirmed.
	StateCreating State = "creating"
	// StateRunning means that the guest answers.
	StateRunning State = "running"
	// StatePaused means that memory is kept, nothing runs.
	StatePaused State = "paused"
	// StateUnhealthy means that the owner or its runtime cannot be reached; the reason says which.
	StateUnhealthy State = "unhealthy"
	// StateExpired means that its time passed while nobody could act.
	StateExpired State = "expired"
	// StateError means that the create failed or the runtime died; the reason says how.
	StateError State = "error"
	// StateDestroyed means that it is gone; the row stays as a tombstone.
	StateDestroyed State = "destroyed"
)

// States lists every state.
var States = []State{
	StateCreating,
	StateRunning,
	StatePaused,
	StateUnhealthy,
	StateExpired,
	StateError,
	StateDestroyed,
}

// transitions is the whole state machine: from -> allowed next states. Every change goes through
// CanBecome.
var transitions = map[State][]State{
	StateCreating:  {StateRunning, StateError, StateDestroyed},
	StateRunning:   {StatePaused, StateUnhealthy, StateExpired, StateError, StateDestroyed},
	StatePaused:    {StateRunning, StateExpired, StateDestroyed},
	StateUnhealthy: {StateRunning, StateExpired, StateDestroyed},
	StateExpired:   {StateDestroyed},
	StateError:     {StateDestroyed},
	StateDestroyed: {},
}

// CanBecome reports whether a sandbox in state s may go to state next. Staying is not a
// transition.
func (s State) CanBecome(next State) bool {
	return slices.Contains(transitions[s], next)
}

// Before lists the states from which s can be reached.
func (s State) Before() []State {
	var from []State
	for _, candidate := range States {
		if candidate.CanBecome(s) {
			from = append(from, candidate)
		}
	}
	return from
}

// Active reports whether a sandbox in this state shows in lists and counts against limits.
func (s State) Active() bool { return s != StateDestroyed }
