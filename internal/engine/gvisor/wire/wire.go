// Package wire is what the gVisor engine and its launcher say to each other over the launcher's
// Unix socket: one JSON request and one JSON answer per connection, each after its length, with
// descriptors beside the answer. Both ends are ours and the socket is in a directory that only
// root may enter, but sizes are bounded all the same.
package wire

import (
	"encoding/json"
	"time"
)

// Version is raised when an older launcher would misunderstand a request.
const Version = 1

// Socket is the launcher's socket, in the engine's directory.
const Socket = "launcher.sock"

// ExitServed is the launcher's exit code when another one has the directory: the asker looks for
// that one again.
const ExitServed = 75

// Verbs.
const (
	// VerbHello keeps the connection open: while it lasts, the launcher does not stop for lack of
	// work. The same connection may carry VerbStop later.
	VerbHello = "hello"
	// VerbStop ends the launcher if it has no sandbox and no other client.
	VerbStop = "stop"
	// VerbCreate makes a sandbox and passes the host's end of its guest descriptor.
	VerbCreate = "create"
	// VerbDial passes a descriptor that is connected to a TCP port on the sandbox's loopback.
	VerbDial = "dial"
	// VerbConnect passes a new connection to the guest program, a Unix socket, which is far faster
	// than a port of the sandbox's network. FailureUnsupported: the guest program takes none, or an
	// earlier launcher made the sandbox; dial its port.
	VerbConnect = "connect"
	// VerbDestroy removes a sandbox and everything that belongs to it; one that is not there is a
	// success.
	VerbDestroy = "destroy"
	// VerbExpire changes when a sandbox expires (LabelExpires). The launcher ends an expired
	// sandbox by itself when no client has been connected for a while.
	VerbExpire = "expire"
	// VerbStatus tells of one sandbox.
	VerbStatus = "status"
	// VerbList tells of all.
	VerbList = "list"
)

// LabelExpires is the label that says when a sandbox expires, in Unix seconds; without it a
// sandbox never does. It is engine.LabelExpires, which the launcher does not link.
const LabelExpires = "expires"

// Request is one question.
type Request struct {
	Version int     `json:"version"`
	Verb    string  `json:"verb"`
	ID      string  `json:"id,omitempty"`
	Port    uint16  `json:"port,omitempty"`
	Expires int64   `json:"expires,omitempty"` // VerbExpire: Unix seconds
	Create  *Create `json:"create,omitempty"`
}

// Create says what to make. Spec is an OCI runtime spec.
type Create struct {
	Spec        json.RawMessage   `json:"spec"`
	Labels      map[string]string `json:"labels,omitempty"`
	MemoryBytes int64             `json:"memory_bytes,omitempty"`
	DiskBytes   int64             `json:"disk_bytes,omitempty"`
	CPUs        float64           `json:"cpus,omitempty"`
	Pids        int64             `json:"pids,omitempty"`
	// Accepts says that the guest program accepts connections on a descriptor: VerbConnect.
	Accepts bool `json:"accepts,omitempty"`
}

// Failure says why a request was not done.
type Failure string

// Failures. The empty one is success.
const (
	FailureInvalid  Failure = "invalid"   // the request itself is wrong
	FailureExists   Failure = "exists"    // create: the id is taken
	FailureNotFound Failure = "not_found" // no such sandbox
	FailureDead     Failure = "dead"      // the sandbox is there but does not run
	FailureRefused  Failure = "refused"   // dial: nothing answers on that port
	// FailureUnsupported is the answer to VerbConnect where only VerbDial leads to the guest.
	FailureUnsupported Failure = "unsupported"
	// FailureLimits is the answer to VerbCreate where the kernel does not watch a limit.
	FailureLimits Failure = "limits"
	// FailureDescriptors says that the launcher or the machine has no file descriptor left.
	FailureDescriptors Failure = "descriptors"
	FailureInternal    Failure = "internal"
)

// Answer is the reply to any request.
type Answer struct {
	Failure Failure `json:"failure,omitempty"`
	Error   string  `json:"error,omitempty"` // for logs
	// VerbHello.
	Version   int      `json:"version,omitempty"`
	Build     string   `json:"build,omitempty"`    // content hash of the launcher
	Enforces  []string `json:"enforces,omitempty"` // limits that this machine can hold
	Sandboxes int      `json:"sandboxes,omitempty"`
	// VerbStop.
	Stopping bool `json:"stopping,omitempty"`
	// VerbStatus, VerbList, VerbCreate.
	Runtimes []Runtime `json:"runtimes,omitempty"`
}

// Runtime is one sandbox as the launcher finds it.
type Runtime struct {
	ID         string            `json:"id"`
	Labels     map[string]string `json:"labels,omitempty"`
	Created    time.Time         `json:"created"`
	Running    bool              `json:"running"`
	Detail     string            `json:"detail,omitempty"`
	Unenforced []string          `json:"unenforced,omitempty"`
	End        *End              `json:"end,omitempty"` // nil: it runs, or was never started
}

// Cause says in one word why a runtime ended: some of stacyvm.Reasons, which the launcher does not
// link.
type Cause string

// Causes.
const (
	CauseDied         Cause = "runtime_died"
	CauseOOM          Cause = "oom"
	CauseKilled       Cause = "killed"
	CauseRebooted     Cause = "machine_rebooted"
	CauseLauncherGone Cause = "launcher_gone"
	CauseExpired      Cause = "expired"
)

// End is how a sandbox's runtime ended. Detail is for users.
type End struct {
	Cause  Cause     `json:"cause"`
	Detail string    `json:"detail,omitempty"`
	At     time.Time `json:"at,omitzero"` // zero: not known
}

// ValidID tells whether id can be a sandbox's name: a short file name without surprises.
func ValidID(id string) bool {
	if id == "" || len(id) > 64 || id[0] == '.' || id[0] == '-' {
		return false
	}
	for _, c := range []byte(id) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '_', c == '-', c == '.':
		default:
			return false
		}
	}
	return true
}
