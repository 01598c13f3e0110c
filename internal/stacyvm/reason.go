package stacyvm

import "time"

// Reason says in one word why a sandbox is unhealthy, in error, expired or destroyed, or not
// running yet. The list is closed; docs/operations.md has a row for each with what to do.
type Reason string

// Reasons.
const (
	// ReasonQueued means that nothing is wrong: a sandbox that is being created waits for its
	// worker to start it.
	ReasonQueued Reason = "queued"
	// ReasonCreateFailed means that the runtime could not be made.
	ReasonCreateFailed Reason = "create_failed"
	// ReasonRuntimeDied means that the runtime ended by itself; the detail has its exit status.
	ReasonRuntimeDied Reason = "runtime_died"
	// ReasonOOM means that the kernel ended the runtime because the sandbox was out of memory. Of
	// a process: that it was ended for this reason, and the sandbox lives.
	ReasonOOM Reason = "oom"
	// ReasonKilled means that somebody outside the sandbox ended the runtime with a signal; the
	// detail names it.
	ReasonKilled Reason = "killed"
	// ReasonMachineRebooted means that the machine was started anew since the sandbox was made.
	ReasonMachineRebooted Reason = "machine_rebooted"
	// ReasonLauncherGone means that the runtime ended while the launcher that had started it was
	// gone, so that nobody knows its exit status.
	ReasonLauncherGone Reason = "launcher_gone"
	// ReasonExpired means that the sandbox's machine ended it while no server ran there, because
	// it had expired by the machine's record; by the store's it had not.
	ReasonExpired Reason = "expired"
	// ReasonLost means that the worker has no runtime for the sandbox.
	ReasonLost Reason = "lost"
	// ReasonNoAnswer means that the runtime lives and its guest program does not answer.
	ReasonNoAnswer Reason = "no_answer"
	// ReasonWorkerStale means that the worker sends no heartbeat or is out of service.
	ReasonWorkerStale Reason = "worker_stale"
	// ReasonWorkerUnreachable means that the worker sends heartbeats and its RPC address does not
	// answer.
	ReasonWorkerUnreachable Reason = "worker_unreachable"
)

// Reasons lists every reason.
var Reasons = []Reason{
	ReasonQueued, ReasonCreateFailed, ReasonRuntimeDied, ReasonOOM, ReasonKilled, ReasonMachineRebooted,
	ReasonLauncherGone, ReasonExpired, ReasonLost, ReasonNoAnswer, ReasonWorkerStale, ReasonWorkerUnreachable,
}

// Cause is why a sandbox is not well. Clients see all of it: Detail holds no host path and no text
// of the guest's.
type Cause struct {
	Reason Reason
	Detail string // in a sentence, where there is more to tell: an exit status, a signal
	// Since is when the sandbox died or, for one that is silent, when it answered last; when it
	// was found so where nobody knows better.
	Since time.Time
}
