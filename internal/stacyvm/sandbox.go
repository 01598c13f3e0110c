package stacyvm

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
	"time"
)

// SandboxID names a sandbox: "sb-" and 24 hex digits (96 random bits). Knowing one grants nothing.
type SandboxID string

// NewSandboxID makes a fresh id.
func NewSandboxID() SandboxID {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return SandboxID("sb-" + hex.EncodeToString(b[:]))
}

// Valid reports whether id has the form of an id. Check it before it becomes part of a path. Each
// request asks, some more than once: an expression took a tenth of the time of reading a sandbox.
func (id SandboxID) Valid() bool {
	digits, ok := strings.CutPrefix(string(id), "sb-")
	return ok && len(digits) == 24 && strings.Trim(digits, "0123456789abcdef") == ""
}

// Sandbox is one row of the store: what is known of a disposable computer. The zero time means
// "not yet".
type Sandbox struct {
	ID        SandboxID
	State     State
	Cause     // why, for error, unhealthy, expired and destroyed; zero while all is well
	Desired   Desired
	Provider  string // engine name
	Image     string
	Spec      Spec
	OwnerID   string
	TenantID  string
	WorkerID  WorkerID
	Fence     Fence  // of the present owner; only a write that carries it counts
	RuntimeID string // the engine's own name for the runtime, when it differs from ID
	Recovered bool   // found by reconciliation after its row or owner was lost
	// Unenforced names the limits that this machine cannot enforce for this sandbox.
	Unenforced []Limit
	Metadata   map[string]string
	// QueuePlace is the place in line of a create that waits for its worker to start it, 1 for the
	// next one; 0: it does not wait, or through another server. It is not stored.
	QueuePlace int
	CreatedAt  time.Time
	UpdatedAt  time.Time
	ExpiresAt  time.Time
}

// Expiry is when the sandbox expires. For one that is still being created it is when it would
// expire if it ran since its row last changed, because its time counts from the moment when it
// runs.
func (s Sandbox) Expiry() time.Time {
	if s.State == StateCreating {
		return s.ExpiresAt.Add(s.UpdatedAt.Sub(s.CreatedAt))
	}
	return s.ExpiresAt
}

// Desired is what the user wants of a sandbox; reconciliation makes it true.
type Desired string

const (
	// DesiredRunning is set at create.
	DesiredRunning Desired = "running"
	// DesiredDestroyed is written before a destroy is tried, so that it is finished after a crash.
	DesiredDestroyed Desired = "destroyed"
)

// Spec is everything that decides what a sandbox is made of. It is complete: every default is
// filled in.
type Spec struct {
	Image    string            `json:"image"`
	Provider string            `json:"provider"`
	MemoryMB int               `json:"memory_mb"` // MiB; what the guest sees as its total
	VCPUs    int               `json:"vcpus"`
	DiskMB   int               `json:"disk_mb"` // MiB that may be written to the root file system
	TTL      time.Duration     `json:"ttl"`
	Network  NetworkMode       `json:"network"`
	Env      map[string]string `json:"env,omitempty"`
	Selector map[string]string `json:"selector,omitempty"` // labels that its worker must have
}

// NetworkMode says what a guest can reach.
type NetworkMode string

// NetworkNone is a loopback interface and nothing else, no DNS. The default, and for now the only
// one.
const NetworkNone NetworkMode = "none"

// AdmissionReason says in one word why a create would not be let in now. The list is closed.
type AdmissionReason string

// Reasons of an admission that is refused.
const (
	// AdmissionMaxTTL means that the sandbox would live longer than any may.
	AdmissionMaxTTL AdmissionReason = "max_ttl"
	// AdmissionMaxSandboxes means that there are as many sandboxes as there may be.
	AdmissionMaxSandboxes AdmissionReason = "max_sandboxes"
	// AdmissionMaxOwned means that the owner has as many as it may.
	AdmissionMaxOwned AdmissionReason = "max_sandboxes_per_owner"
	// AdmissionNoWorker means that no worker can take it.
	AdmissionNoWorker AdmissionReason = "worker_unavailable"
	// AdmissionUnreachable means that a worker could take it and cannot be called.
	AdmissionUnreachable AdmissionReason = "remote_worker_rpc_unavailable"
)

// Admission answers whether a create would be let in now.
type Admission struct {
	Allowed         bool
	Queueable       bool            // not allowed, and a create would wait in line
	Reason          AdmissionReason // empty when allowed
	Active, Max     int             // Max 0: no limit
	OwnerActive     int
	OwnerMax        int
	MaxTTL          time.Duration
	SelectedWorker  WorkerID
	EligibleWorkers int
	WorkerReason    string
}
