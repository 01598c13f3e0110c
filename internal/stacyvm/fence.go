package stacyvm

import (
	"cmp"
	"time"
)

// Fence is the token that decides whose write counts: the cluster's incarnation and the sandbox's
// ownership epoch. Greater fences win. The zero fence is older than every real one.
type Fence struct {
	Incarnation int64 `json:"incarnation"`
	Epoch       int64 `json:"epoch"`
}

// Compare orders fences: negative when f is older than other.
func (f Fence) Compare(other Fence) int {
	if c := cmp.Compare(f.Incarnation, other.Incarnation); c != 0 {
		return c
	}
	return cmp.Compare(f.Epoch, other.Epoch)
}

// Ref names a sandbox together with the right to change it. Every mutating call to a worker
// carries one.
type Ref struct {
	ID    SandboxID
	Fence Fence
}

// Lease says who should act for a resource. Only its epoch says whose write counts.
type Lease struct {
	Resource   string
	Type       string // "sandbox" or "duty"
	Holder     WorkerID
	Session    string // random per worker process
	Epoch      int64  // +1 on each acquire, never reused
	Generation int64  // +1 on each acquire, renew and release
	ExpiresAt  time.Time
}

const (
	// LeaseTTL is how long a lease lives without renewal.
	LeaseTTL = 30 * time.Second
	// LeaseRenewEvery is the pause between renewals.
	LeaseRenewEvery = 10 * time.Second
	// LeaseGrace is what a takeover waits past the expiry.
	LeaseGrace = 10 * time.Second
)

// Usage is what sandboxes take of a worker, in the measures of its Capacity.
type Usage struct {
	Sandboxes int
	MemoryMB  int // MiB, as promised
	VCPUs     int // likewise
}

// Plus adds.
func (u Usage) Plus(v Usage) Usage {
	return Usage{u.Sandboxes + v.Sandboxes, u.MemoryMB + v.MemoryMB, u.VCPUs + v.VCPUs}
}

// Times multiplies.
func (u Usage) Times(n int) Usage { return Usage{n * u.Sandboxes, n * u.MemoryMB, n * u.VCPUs} }

// Usage is what one sandbox of this spec takes.
func (s Spec) Usage() Usage { return Usage{Sandboxes: 1, MemoryMB: s.MemoryMB, VCPUs: s.VCPUs} }

// Capacity is what a worker offers. Zero means no limit.
type Capacity struct {
	MaxSandboxes int `json:"max_sandboxes,omitempty"`
	MemoryMB     int `json:"memory_mb,omitempty"` // MiB, summed over what its sandboxes were promised
	VCPUs        int `json:"vcpus,omitempty"`     // likewise
	// ParallelCreates is how many sandboxes it starts at a time.
	ParallelCreates int               `json:"parallel_creates,omitempty"`
	RPCURL          string            `json:"rpc_url,omitempty"` // where control planes call it
	PreviewDomain   string            `json:"preview_domain,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
	// an operator wants nothing new on it; the worker has no say in it
	Drained bool `json:"drained,omitempty"`
}

// Limited reports whether there is a limit in any measure.
func (c Capacity) Limited() bool { return c.MaxSandboxes > 0 || c.MemoryMB > 0 || c.VCPUs > 0 }
