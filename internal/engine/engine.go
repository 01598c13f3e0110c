// Package engine is the port to one isolation technology on one machine: it makes, finds and
// removes runtimes. It knows nothing of commands, files or terminals: those are the guest
// program's work and the same on every engine.
//
// An implementation keeps these promises; enginetest checks them:
//   - Create returns when the guest answers, or leaves nothing behind and returns an error.
//   - A second Create for an id that exists is a CodeConflict error and changes nothing.
//   - Destroy is idempotent and returns when nothing of the runtime is left on the host.
//   - List is complete or an error; it never leaves out a runtime that it could not examine.
//   - A runtime outlives the process that made it unless Probe says otherwise (Capabilities.Survives).
//   - Calls for different ids run in parallel.
package engine

import (
	"context"
	"net"
	"time"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Engine makes and finds runtimes. All methods may be called concurrently.
type Engine interface {
	// Name is the provider name: "gvisor", "mock".
	Name() string
	// Probe tells what works here and what is missing and why. An error means that the probing
	// itself failed.
	Probe(ctx context.Context) (Capabilities, error)
	// Create makes a runtime and returns when its guest program answers.
	Create(ctx context.Context, spec Spec) (Instance, error)
	// Attach finds a runtime that was made earlier, also by a process that is gone. secret is the
	// guest's. CodeNotFound: no such runtime; CodeUnavailable: it is there but its guest does not
	// answer.
	Attach(ctx context.Context, id stacyvm.SandboxID, secret guest.Secret) (Instance, error)
	// List gives every runtime with our labels in this engine's state, whatever its state.
	List(ctx context.Context) ([]Runtime, error)
	// Close lets go of this process's resources; runtimes stay when they survive their maker.
	Close() error
}

// Instance is one live runtime.
type Instance interface {
	// Dial opens a connection to the guest program or to a TCP port inside.
	Dial(ctx context.Context, target Target) (net.Conn, error)
	// Status asks the runtime itself, not a cache.
	Status(ctx context.Context) (Status, error)
	// Destroy removes the runtime and all that belongs to it on the host.
	Destroy(ctx context.Context) error
}

// Remover is implemented by every engine whose leftovers can be removed by id alone, without a
// live instance.
type Remover interface {
	// Remove destroys whatever is left of id: idempotent.
	Remove(ctx context.Context, id stacyvm.SandboxID) error
}

// Expirer is implemented by engines whose runtimes end by themselves when they expire while no
// server runs. They know from LabelExpires when that is.
type Expirer interface {
	// Expire changes when a runtime expires. CodeNotFound: no such runtime; CodeUnsupported: what
	// runs it is of an earlier release and cannot be told.
	Expire(ctx context.Context, id stacyvm.SandboxID, at time.Time) error
}

// Target says what Dial reaches: the guest program (zero value) or a TCP port on the sandbox's
// loopback.
type Target struct {
	Port uint16
	// HTTP1 asks for a connection to the guest program that takes HTTP/1 too. CodeUnsupported: it
	// has none.
	HTTP1 bool
}

// Spec is what a runtime is made from.
type Spec struct {
	ID     stacyvm.SandboxID
	Labels map[string]string // see the Label constants; opaque to the engine
	Root   Root
	// MemoryBytes, DiskBytes, CPUs and Pids are limits; 0 is none. An engine that cannot enforce
	// one says so in Status.Unenforced.
	MemoryBytes int64
	DiskBytes   int64
	CPUs        float64
	Pids        int64
	Hostname    string
	Boot        guest.Boot // handed to the guest program at its start; holds its secret
}

// Root is the sandbox's root file system as the host sees it. Everything named here is only read.
type Root struct {
	// Dir is the lower directory. The guest's writes go to a layer of their own.
	Dir string
	// Mounts are read-only views of further host directories.
	Mounts []Mount
}

// Mount shows a host directory, read-only, inside the sandbox.
type Mount struct {
	Source string // absolute host path; empty: an empty directory, to hide what the layer below has there
	Target string // absolute path inside
}

// Labels that every runtime carries, so that an inventory can be told apart without the store.
const (
	LabelCluster     = "cluster"
	LabelIncarnation = "incarnation"
	LabelEpoch       = "epoch" // of the creation
	LabelOwner       = "owner"
	LabelTenant      = "tenant"
	LabelSpecHash    = "spec"
	LabelExpires     = "expires" // Unix seconds; not positive: never
)

// Capabilities is what an engine can do on this machine, as tried, not as configured.
type Capabilities struct {
	Usable   bool
	Problems []Problem // why not, or what is weaker than it should be
	Isolates bool      // false for mock: it isolates nothing
	Survives bool      // runtimes outlive the server process
	// Enforces names the limits that this machine can hold.
	Enforces []stacyvm.Limit
	// Features are the optional powers. One that stands for an interface of this package is claimed
	// by engines that have it, and by no other.
	Features []stacyvm.Feature
	Version  string
}

// Problem is one thing that is missing, with what to do about it.
type Problem struct {
	What string
	Fix  string
}

// Runtime is one line of an inventory.
type Runtime struct {
	ID      stacyvm.SandboxID
	Labels  map[string]string
	Running bool          // the runtime's process lives; says nothing of the guest
	Detail  string        // for logs
	Cause   stacyvm.Cause // why it does not run, for users; as far as known
	Created time.Time
}

// Status is what a runtime says of itself.
type Status struct {
	Running    bool
	Detail     string        // why not, for logs
	Cause      stacyvm.Cause // why not, for users; as far as known
	Unenforced []stacyvm.Limit
}
