// Package controltest holds what tests of the service and of reconciliation share: a worker with
// fault knobs.
package controltest

import (
	"context"
	"net"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// Worker is a machine in memory: it keeps runtimes and fences as a real one does, but its
// runtimes have no guest.
type Worker struct {
	// The hooks run, when set, before the call has its effect, and its error ends the call there.
	// A hook may block.
	BeforeCreate    func(context.Context, stacyvm.Ref) error
	BeforeDestroy   func(context.Context, stacyvm.Ref) error
	BeforeInventory func(context.Context) error
	BeforeExpire    func(context.Context, stacyvm.Ref) error
	// AfterCreate runs when the runtime is there: its error is an answer that was lost.
	AfterCreate func(context.Context, stacyvm.Ref) error

	mu       sync.Mutex
	fences   map[stacyvm.SandboxID]stacyvm.Fence
	runtimes map[stacyvm.SandboxID]worker.Runtime
	creates  int
	destroys int
}

// NewWorker makes an empty machine.
func NewWorker() *Worker {
	return &Worker{fences: map[stacyvm.SandboxID]stacyvm.Fence{}, runtimes: map[stacyvm.SandboxID]worker.Runtime{}}
}

func hook[T any](ctx context.Context, f func(context.Context, T) error, arg T) error {
	if f == nil {
		return nil
	}
	return f(ctx, arg)
}

// admit keeps the highest fence and refuses an older one; w.mu is held.
func (w *Worker) admit(ref stacyvm.Ref) error {
	if ref.Fence.Compare(w.fences[ref.ID]) < 0 {
		return stacyvm.Errorf(stacyvm.CodeStaleEpoch, "a newer owner exists")
	}
	w.fences[ref.ID] = ref.Fence
	if runtime, ok := w.runtimes[ref.ID]; ok {
		runtime.Fence = ref.Fence
		w.runtimes[ref.ID] = runtime
	}
	return nil
}

// Create implements worker.Worker.
func (w *Worker) Create(ctx context.Context, ref stacyvm.Ref, request worker.CreateRequest) (worker.Created, error) {
	if err := hook(ctx, w.BeforeCreate, ref); err != nil {
		return worker.Created{}, err
	}
	created, err := w.create(ref, request)
	if err == nil {
		err = hook(ctx, w.AfterCreate, ref)
	}
	return created, err
}

func (w *Worker) create(ref stacyvm.Ref, request worker.CreateRequest) (worker.Created, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.admit(ref); err != nil {
		return worker.Created{}, err
	}
	if runtime, ok := w.runtimes[ref.ID]; ok {
		return runtime.Created, nil
	}
	w.creates++
	runtime := worker.Runtime{
		ID: ref.ID, Fence: ref.Fence, Cluster: request.Cluster, Phase: worker.PhaseRunning, Request: request,
		Created:   worker.Created{RuntimeID: "rt-" + string(ref.ID), Unenforced: []stacyvm.Limit{stacyvm.LimitDisk}},
		CreatedAt: time.Now(),
	}
	w.runtimes[ref.ID] = runtime
	return runtime.Created, nil
}

// Destroy implements worker.Worker.
func (w *Worker) Destroy(ctx context.Context, ref stacyvm.Ref) error {
	if err := hook(ctx, w.BeforeDestroy, ref); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.admit(ref); err != nil {
		return err
	}
	if _, ok := w.runtimes[ref.ID]; ok {
		w.destroys++
	}
	delete(w.runtimes, ref.ID)
	return nil
}

// Expire implements worker.Expirer.
func (w *Worker) Expire(ctx context.Context, ref stacyvm.Ref, at time.Time) error {
	if err := hook(ctx, w.BeforeExpire, ref); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	runtime, ok := w.runtimes[ref.ID]
	if !ok {
		return stacyvm.Errorf(stacyvm.CodeNotFound, "no such runtime")
	}
	if err := w.admit(ref); err != nil {
		return err
	}
	runtime.Fence, runtime.Request.ExpiresAt = ref.Fence, at
	w.runtimes[ref.ID] = runtime
	return nil
}

// Inventory implements worker.Worker.
func (w *Worker) Inventory(ctx context.Context) (worker.Inventory, error) {
	if w.BeforeInventory != nil {
		if err := w.BeforeInventory(ctx); err != nil {
			return worker.Inventory{}, err
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var inventory worker.Inventory
	for _, runtime := range w.runtimes {
		inventory.Runtimes = append(inventory.Runtimes, runtime)
	}
	return inventory, nil
}

// Guest implements worker.Worker: nobody is at home.
func (w *Worker) Guest(context.Context, stacyvm.Ref, guest.Scope) (guest.Conn, error) {
	return guest.Conn{}, stacyvm.Errorf(stacyvm.CodeUnavailable, "no guest here")
}

// DialPort implements worker.Worker.
func (w *Worker) DialPort(context.Context, stacyvm.Ref, uint16) (net.Conn, error) {
	return nil, stacyvm.Errorf(stacyvm.CodeUnavailable, "no guest here")
}

// Providers implements worker.Worker: one usable engine, "mock".
func (w *Worker) Providers(context.Context) ([]worker.Provider, error) {
	p := worker.Provider{Name: "mock", Default: true}
	p.Capabilities.Usable = true
	return []worker.Provider{p}, nil
}

// Runtime looks one up; ok is false when it is not there.
func (w *Worker) Runtime(id stacyvm.SandboxID) (runtime worker.Runtime, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	runtime, ok = w.runtimes[id]
	return runtime, ok
}

// Put places a runtime, or changes one, behind everybody's back.
func (w *Worker) Put(runtime worker.Runtime) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.runtimes[runtime.ID] = runtime
	w.fences[runtime.ID] = runtime.Fence
}

// Lose takes a runtime away and gives it back to the caller.
func (w *Worker) Lose(id stacyvm.SandboxID) worker.Runtime {
	w.mu.Lock()
	defer w.mu.Unlock()
	runtime := w.runtimes[id]
	delete(w.runtimes, id)
	return runtime
}

// Counts tells how many runtimes were made, destroyed and are there.
func (w *Worker) Counts() (creates, destroys, present int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.creates, w.destroys, len(w.runtimes)
}
