package stacyvm

import (
	"slices"
	"testing"
)

// TestTransitions checks every pair of states against the table of the design, written as a matrix
// so that a reader sees the whole machine: rows are from, columns to.
func TestTransitions(t *testing.T) {
	matrix := map[State]string{
		//               creating running paused unhealthy expired error destroyed
		StateCreating:  ". x . . . x x",
		StateRunning:   ". . x x x x x",
		StatePaused:    ". x . . x . x",
		StateUnhealthy: ". x . . x . x",
		StateExpired:   ". . . . . . x",
		StateError:     ". . . . . . x",
		StateDestroyed: ". . . . . . .",
	}
	if len(matrix) != len(States) {
		t.Fatalf("the matrix has %d rows, the vocabulary %d states", len(matrix), len(States))
	}
	for from, row := range matrix {
		for i, to := range States {
			want := row[2*i] == 'x'
			if got := from.CanBecome(to); got != want {
				t.Errorf("%s -> %s: CanBecome is %v, want %v", from, to, got, want)
			}
			if got := slices.Contains(to.Before(), from); got != want {
				t.Errorf("%s.Before() holds %s: %v, want %v", to, from, got, want)
			}
		}
	}
}

func TestUnknownStateGoesNowhere(t *testing.T) {
	for _, s := range States {
		if State("idle").CanBecome(s) || s.CanBecome("idle") {
			t.Errorf("an unknown state has a way to or from %s", s)
		}
	}
}

func TestEveryLiveStateCanBeDestroyed(t *testing.T) {
	for _, s := range States {
		if s.Active() != s.CanBecome(StateDestroyed) {
			t.Errorf("%s: active %v, can be destroyed %v", s, s.Active(), s.CanBecome(StateDestroyed))
		}
	}
}
