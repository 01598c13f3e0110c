package reconcile

import (
	"slices"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// orphanAge is how old a runtime without a row must be before it counts as an orphan.
const orphanAge = 60 * time.Second

// action is what one comparison of a row with a runtime asks for.
type action string

const (
	none             action = ""
	adopt            action = "adopt"   // the runtime answers: running
	resend           action = "resend"  // send the create again
	fail             action = "fail"    // a create that nobody finishes: remove what is there, destroyed
	markLost         action = "lose"    // no runtime: unhealthy, lost
	updateReason     action = "retell"  // its worker is back and has none: unhealthy for another reason, lost
	markUnresponsive action = "mute"    // its guest does not answer: unhealthy, no_answer
	markDead         action = "die"     // its runtime ended by itself: error, with the reason
	restore          action = "restore" // the lost runtime is back: a new epoch, running
	finish           action = "finish"  // destroy was asked for: do it
	clean            action = "clean"   // what a failed sandbox left: remove the runtime, keep the row
	kill             action = "kill"    // a runtime without an owner: remove it
	readmit          action = "readmit" // a runtime of an earlier incarnation: give it a row
	warn             action = "warn"    // not ours to touch
)

// needsConfirmation lists the actions that need a second sighting: those that end a runtime for
// what we know of it, and the one that a busy machine could bring about.
var needsConfirmation = map[action]bool{kill: true, clean: true, markUnresponsive: true}

// view is one sandbox as both sides have it. row or runtime may be nil, not both.
type view struct {
	row         *stacyvm.Sandbox
	runtime     *worker.Runtime
	interrupted bool // the create's process is gone
	now         time.Time
	self        stacyvm.WorkerID
	cluster     store.Cluster
}

// decide is the recovery table.
func decide(v view) action {
	if v.runtime != nil && v.runtime.Cluster != v.cluster.ID {
		return warn
	}
	switch {
	case v.row == nil:
		return decideOrphan(v)
	case v.row.State == stacyvm.StateDestroyed || v.row.WorkerID != v.self:
		return decideUnowned(v)
	case v.runtime != nil && v.row.Fence.Compare(v.runtime.Fence) < 0:
		return warn // the store is older than what this worker has confirmed
	case v.row.Desired == stacyvm.DesiredDestroyed:
		return finish
	case v.expired():
		return none // Reap ends it as it would have while it ran
	}
	switch v.row.State {
	case stacyvm.StateCreating:
		return decideCreating(v)
	case stacyvm.StateRunning:
		return decideRunning(v)
	case stacyvm.StateUnhealthy:
		return decideUnhealthy(v)
	case stacyvm.StateError:
		if v.runtime != nil {
			return clean
		}
	case stacyvm.StatePaused, stacyvm.StateExpired, stacyvm.StateDestroyed: // other loops' work, or done
	}
	return none
}

func decideUnowned(v view) action {
	switch {
	case v.runtime == nil:
		return none
	case v.row.State != stacyvm.StateDestroyed && v.earlier():
		return warn // the row is from a backup, and the runtime may be its newer owner's
	}
	return kill
}

// expired reports whether the worker ended the sandbox because it had expired, and the row says
// so, too.
func (v view) expired() bool {
	ended := v.runtime != nil && v.runtime.Phase == worker.PhaseDead && v.runtime.Cause.Reason == stacyvm.ReasonExpired
	return ended && slices.Contains(living, v.row.State) && !v.now.Before(v.row.ExpiresAt)
}

// living are the states in which a sandbox has a runtime that may expire.
var living = []stacyvm.State{stacyvm.StateRunning, stacyvm.StatePaused, stacyvm.StateUnhealthy}

// drifted reports whether the worker has another expiry for the sandbox than its row. It compares
// what decide leaves alone.
func (v view) drifted() bool {
	if v.row == nil || v.runtime == nil || v.runtime.Phase == worker.PhaseDead ||
		!slices.Contains(living, v.row.State) {
		return false
	}
	return v.row.ExpiresAt.Sub(v.runtime.Request.ExpiresAt).Abs() > stacyvm.ExpiryDrift
}

// earlier reports whether the runtime was last confirmed in an earlier incarnation than the row's.
func (v view) earlier() bool {
	return v.runtime != nil && v.runtime.Fence.Incarnation < v.row.Fence.Incarnation
}

func decideOrphan(v view) action {
	switch since := v.now.Sub(v.runtime.CreatedAt); {
	case v.runtime.Phase == worker.PhaseUnknown:
		return none // the next pass knows more
	case v.runtime.Fence.Incarnation < v.cluster.Incarnation:
		return readmit
	case v.runtime.Fence.Incarnation > v.cluster.Incarnation:
		return warn // of a later time than this store
	case since > orphanAge:
		return kill
	}
	return none
}

func decideCreating(v view) action {
	late := v.now.Sub(v.row.UpdatedAt) > stacyvm.CreateAbandonedAfter
	switch {
	case v.earlier() && v.runtime.Phase == worker.PhaseRunning:
		return adopt // the row is from a backup; the create ended well long ago
	case late:
		return fail
	case v.runtime != nil && v.runtime.Phase == worker.PhaseRunning:
		return adopt
	case !v.interrupted:
		return none // its maker is at work
	case v.runtime != nil && v.runtime.Phase == worker.PhaseDead:
		return fail
	}
	return resend
}

func decideUnhealthy(v view) action {
	away := v.row.Reason == stacyvm.ReasonWorkerStale || v.row.Reason == stacyvm.ReasonWorkerUnreachable
	switch {
	case v.runtime != nil && v.runtime.Phase == worker.PhaseRunning:
		return restore
	case away && (v.runtime == nil || v.runtime.Phase == worker.PhaseDead):
		return updateReason
	}
	return none
}

func decideRunning(v view) action {
	switch {
	case v.runtime == nil:
		return markLost
	case v.runtime.Phase == worker.PhaseRunning:
		return none
	case v.runtime.Phase == worker.PhaseDead:
		return markDead
	case v.runtime.Phase == worker.PhaseSilent:
		return markUnresponsive
	}
	return none
}
