package stacyvm

import (
	"strconv"
	"strings"
	"time"
)

// Event is one thing that happened, told to whoever subscribed. (A piece of a process's output is
// an OutputEvent.)
type Event struct {
	// Number is its place in the order of everything that happened: rising, given by the store,
	// never reused.
	Number    int64
	Kind      Kind
	SandboxID SandboxID // empty: none
	TenantID  string    // whose it is; empty: seen by callers without a tenant only
	Data      map[string]any
	CreatedAt time.Time // zero: now
}

// Kind says what happened. Clients know these names.
type Kind string

// What happens to sandboxes is told with the change itself; what passes through them (exec, file)
// up to 100 ms later.
const (
	KindSandboxCreated   Kind = "sandbox.created" // its row exists, its runtime is being made
	KindSandboxQueued    Kind = "sandbox.queued"  // it waits for its worker to start it
	KindSandboxRunning   Kind = "sandbox.running"
	KindSandboxPaused    Kind = "sandbox.paused"
	KindSandboxUnhealthy Kind = "sandbox.unhealthy"
	KindSandboxExpired   Kind = "sandbox.expired"
	KindSandboxDestroyed Kind = "sandbox.destroyed"
	KindSandboxError     Kind = "sandbox.error"

	KindExecStarted   Kind = "exec.started"
	KindExecCompleted Kind = "exec.completed" // with any exit code
	KindExecFailed    Kind = "exec.failed"    // it could not be started
	KindExecTimeout   Kind = "exec.timeout"
	KindFileWritten   Kind = "file.written"
	KindFileRead      Kind = "file.read"

	KindOperationFailed Kind = "operation.failed"
	KindResourceLimit   Kind = "resource.limit"
	KindProviderFailed  Kind = "provider.failed"
	KindReconcile       Kind = "reconcile.action"

	KindSpawnQueued   Kind = "spawn.queued"   // a create waits for room
	KindSpawnDequeued Kind = "spawn.dequeued" // it has been answered
	KindSpawnTimeout  Kind = "spawn.queue_timeout"

	// with a server's database or disk; of a database it is told when it is over
	KindServerProblem   Kind = "server.problem"
	KindServerRecovered Kind = "server.recovered"
	KindWorkerStarted   Kind = "worker.started" // its process registered; the one before it may have been killed
	KindWorkerProblem   Kind = "worker.problem" // with its machine, such as a full disk
	KindWorkerRecovered Kind = "worker.recovered"

	// KindMissed is told to one subscriber: what stood between its place and here is no longer
	// kept.
	KindMissed Kind = "events.missed"
)

// stateKinds is what is told of a sandbox that entered a state.
var stateKinds = map[State]Kind{
	StateCreating: KindSandboxCreated, StateRunning: KindSandboxRunning, StatePaused: KindSandboxPaused,
	StateUnhealthy: KindSandboxUnhealthy, StateExpired: KindSandboxExpired, StateDestroyed: KindSandboxDestroyed,
	StateError: KindSandboxError,
}

// Event tells that the sandbox entered its present state.
func (s Sandbox) Event() Event {
	data := map[string]any{"provider": s.Provider, "image": s.Image}
	for key, value := range map[string]string{
		"reason": string(s.Reason), "detail": s.Detail, "owner_id": s.OwnerID, "worker_id": string(s.WorkerID),
	} {
		if value != "" {
			data[key] = value
		}
	}
	if !s.Since.IsZero() {
		data["since"] = s.Since.UTC().Format(time.RFC3339Nano)
	}
	return Event{Kind: stateKinds[s.State], SandboxID: s.ID, TenantID: s.TenantID, Data: data}
}

const eventPrefix = "evt-"

// EventID is an event's number as clients see it.
func EventID(number int64) string { return eventPrefix + strconv.FormatInt(number, 10) }

// ParseEventID reads a number back; the prefix may be left out. CodeInvalid names field.
func ParseEventID(field, text string) (int64, error) {
	number, err := strconv.ParseInt(strings.TrimPrefix(text, eventPrefix), 10, 64)
	if err != nil || number < 0 {
		return 0, Invalid(field, "%.40q is not an event's id such as evt-17", text)
	}
	return number, nil
}
