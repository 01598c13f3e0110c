// Package worker is the port to one machine: what a control plane may ask of it. A worker owns
// runtimes; it never sees the store. Local and remote workers are the same to everybody above, and
// workertest checks that they are.
//
// Every mutating call carries a Ref. A worker remembers the highest fence that it has seen for a
// sandbox, on disk, and refuses an older one with CodeStaleEpoch.
package worker

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// ErrSilent is the cause of the CodeUnavailable error of a call to a worker that gives no sign of
// life: nothing of what was asked for is known to have arrived, and asking again soon would take
// as long and end the same way.
var ErrSilent = errors.New("no sign of life")

// Worker is one machine.
type Worker interface {
	// Create makes the sandbox's runtime and returns when its guest answers. The same ref again
	// finds the first runtime. After an error nothing is left of it, or Inventory shows it.
	Create(ctx context.Context, ref stacyvm.Ref, request CreateRequest) (Created, error)
	// Destroy removes the runtime; a runtime that is not there is a success.
	Destroy(ctx context.Context, ref stacyvm.Ref) error
	// Inventory is complete or an error.
	Inventory(ctx context.Context) (Inventory, error)
	// Guest gives a connection to the sandbox's guest program, limited to one scope. It stays good
	// until the runtime is gone or the fence is old.
	Guest(ctx context.Context, ref stacyvm.Ref, scope guest.Scope) (guest.Conn, error)
	// DialPort reaches a TCP port on the sandbox's loopback.
	DialPort(ctx context.Context, ref stacyvm.Ref, port uint16) (net.Conn, error)
	// Providers tells what this machine's engines can do, as probed.
	Providers(ctx context.Context) ([]Provider, error)
}

// Expirer is implemented by workers that can be told when a sandbox expires, for the time when no
// server runs.
type Expirer interface {
	// Expire changes when the sandbox expires; Inventory shows it as the request's ExpiresAt.
	// CodeNotFound: there is no runtime; CodeStaleEpoch: the fence is old; CodeUnsupported: its
	// engine cannot be told, or not by this worker.
	Expire(ctx context.Context, ref stacyvm.Ref, at time.Time) error
}

// Expire tells w when a sandbox expires. CodeUnsupported: it cannot be told.
func Expire(ctx context.Context, w Worker, ref stacyvm.Ref, at time.Time) error {
	if e, ok := w.(Expirer); ok {
		return e.Expire(ctx, ref, at)
	}
	return stacyvm.Errorf(stacyvm.CodeUnsupported, "the worker cannot be told when sandboxes expire")
}

// CreateRequest is a full spec and who it is for.
type CreateRequest struct {
	Cluster   string // this cluster's id: a runtime of another is left alone
	Spec      stacyvm.Spec
	OwnerID   string
	TenantID  string
	ExpiresAt time.Time
}

// Created is what a create reports.
type Created struct {
	RuntimeID  string
	Unenforced []stacyvm.Limit // limits that this machine cannot hold for it
}

// Inventory is everything on the machine that carries our labels.
type Inventory struct {
	Worker   stacyvm.WorkerID
	Runtimes []Runtime
}

// Phase is how far a runtime is. The list is closed.
type Phase string

// Phases. On the wire they are these words.
const (
	// PhaseUnknown means that the guest was not asked yet, or that the runtime is being destroyed.
	PhaseUnknown Phase = "unknown"
	// PhaseCreating means that a create is at work, with a runtime or before there is one.
	PhaseCreating Phase = "creating"
	// PhaseRunning means that the guest answered when it was last asked.
	PhaseRunning Phase = "running"
	// PhaseSilent means that the runtime lives and its guest did not answer when it was last
	// asked, or cannot be asked.
	PhaseSilent Phase = "no_answer"
	// PhaseDead means that the runtime ended by itself and is still to be removed.
	PhaseDead Phase = "dead"
)

// Runtime is one sandbox as the machine has it.
type Runtime struct {
	ID        stacyvm.SandboxID
	Fence     stacyvm.Fence // highest that the worker has confirmed; from the labels when its journal has none
	Cluster   string
	Phase     Phase
	Cause     stacyvm.Cause // of a dead one how it ended, of a silent one since when; as far as known
	CheckedAt time.Time     // when the guest was last found to answer or not, by the machine's clock; zero: never
	Request   CreateRequest // what it was made from, as far as known
	Created   Created
	CreatedAt time.Time
}

// Provider is one engine on a worker.
type Provider struct {
	Name         string
	Default      bool
	Capabilities engine.Capabilities
	Error        string // why it is not healthy; empty when it is
	Latency      time.Duration
	CheckedAt    time.Time
	Runtimes     int
}
