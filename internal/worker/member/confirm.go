package member

import (
	"context"
	"maps"
	"sync"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Confirm asks a control plane whether this worker holds a sandbox under the ref's fence, unless
// it is known: a number that somebody made up must not lock the sandbox's owner out.
// CodeStaleEpoch: there is a newer fence; CodeNotFound: this worker does not hold the sandbox;
// CodeConflict: nobody gave that fence out; CodeUnavailable: no control plane answers.
func (m *Member) Confirm(ctx context.Context, ref stacyvm.Ref) error {
	fence, known := m.fences.of(ref.ID)
	if !known && m.config.Confirmed != nil && m.config.Confirmed(ref) {
		return nil
	}
	if !known || ref.Fence.Compare(fence) > 0 {
		round := m.fences.present()
		err := m.ask(ctx, func(ctx context.Context, plane ControlPlane) (err error) {
			fence, err = plane.Lease(ctx, ref.ID)
			return err
		})
		if stacyvm.CodeOf(err) == stacyvm.CodeNotFound {
			return stacyvm.Errorf(stacyvm.CodeNotFound, "this worker does not hold the sandbox's lease")
		}
		if err != nil {
			return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the sandbox's owner cannot be confirmed now")
		}
		m.fences.note(round, ref.ID, fence)
	}
	switch c := ref.Fence.Compare(fence); {
	case c < 0:
		return stacyvm.Errorf(stacyvm.CodeStaleEpoch, "the sandbox has a newer owner")
	case c > 0:
		return stacyvm.Errorf(stacyvm.CodeConflict, "the sandbox was never given under this fence")
	}
	return nil
}

// fences are those under which the worker holds its sandboxes, as far as it was told. Each renewal
// replaces them, but for what was learnt while it was under way.
type fences struct {
	mu    sync.Mutex
	round int
	held  map[stacyvm.SandboxID]heldFence
}

type heldFence struct {
	fence stacyvm.Fence
	round int // in which it was asked for
}

func (f *fences) of(id stacyvm.SandboxID) (stacyvm.Fence, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	held, ok := f.held[id]
	return held.fence, ok
}

func (f *fences) present() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.round
}

// begin counts a renewal.
func (f *fences) begin() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.round++
	return f.round
}

// learn takes a renewal's answer over.
func (f *fences) learn(round int, told map[stacyvm.SandboxID]stacyvm.Fence) {
	f.mu.Lock()
	defer f.mu.Unlock()
	maps.DeleteFunc(f.held, func(_ stacyvm.SandboxID, held heldFence) bool { return held.round < round })
	if f.held == nil {
		f.held = make(map[stacyvm.SandboxID]heldFence, len(told))
	}
	for id, fence := range told {
		f.raise(round, id, fence)
	}
}

// note keeps the answer to one question.
func (f *fences) note(round int, id stacyvm.SandboxID, fence stacyvm.Fence) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.held == nil {
		f.held = map[stacyvm.SandboxID]heldFence{}
	}
	f.raise(round, id, fence)
}

func (f *fences) raise(round int, id stacyvm.SandboxID, fence stacyvm.Fence) {
	if held, ok := f.held[id]; !ok || held.fence.Compare(fence) <= 0 {
		f.held[id] = heldFence{fence, round}
	}
}
