package local

import (
	"context"
	"maps"
	"slices"
	"sync"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// entry is one sandbox as this worker has it.
type entry struct {
	id    stacyvm.SandboxID
	users int // calls that work on it; guarded by Worker.mu

	// mu guards what follows. It is held over a write to the journal and never over a call to an
	// engine or a guest. It is taken before Worker.mu.
	mu         sync.Mutex
	read       bool    // the journal was asked for it
	record     *record // nil: nothing of it is here. Replaced, never changed
	damaged    error   // there is a record, but it cannot be read
	fence      stacyvm.Fence
	destroyed  bool // see tombstone
	job        *job // what goes on with it; nil: nothing
	connection *connection
	health     health
}

// job is one create, destroy or attach. A entry has one at a time.
type job struct {
	kind   string
	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{}
}

const (
	kindCreate  = "create"
	kindDestroy = "destroy"
	kindAttach  = "attach"
)

// connection is a connection to a runtime and its guest.
type connection struct {
	instance  engine.Instance
	transport *guest.Transport
}

// acquire gives the entry of a sandbox, made when missing, and keeps it until release.
func (w *Worker) acquire(id stacyvm.SandboxID) (b *entry, release func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b = w.entries[id]; b == nil {
		b = &entry{id: id}
		w.entries[id] = b
	}
	b.users++
	return b, func() { w.release(b) }
}

// release forgets an entry that says no more than the journal does.
func (w *Worker) release(b *entry) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w.mu.Lock()
	defer w.mu.Unlock()
	b.users--
	if b.users == 0 && b.record == nil && b.damaged == nil {
		delete(w.entries, b.id)
	}
}

// current gives the record as it is now; nil: there is none.
func (b *entry) current() *record {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.record
}

// lookup gives the entry of a sandbox that is here; nil: there is none.
func (w *Worker) lookup(id stacyvm.SandboxID) *entry {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return w.entries[id]
}

func (w *Worker) all() []*entry {
	w.mu.RLock()
	defer w.mu.RUnlock()
	return slices.Collect(maps.Values(w.entries))
}

// admit refuses an old fence and keeps a newer one, on disk when there is a record to keep it in;
// b.mu is held.
func (w *Worker) admit(b *entry, fence stacyvm.Fence) error {
	switch c := fence.Compare(b.fence); {
	case c < 0:
		return stacyvm.Errorf(stacyvm.CodeStaleEpoch, "the sandbox has a newer owner")
	case c == 0:
		return nil
	}
	if b.record != nil {
		raised := *b.record
		raised.Fence = fence
		if err := w.journal.keep(b.id, raised); err != nil {
			return err
		}
		b.record = &raised
	}
	b.fence, b.destroyed = fence, false
	return nil
}

// Confirmed reports whether the journal already holds the ref's fence or a newer one: nobody has
// to be asked whether it is the sandbox's, also after a restart and for one whose row is gone.
func (w *Worker) Confirmed(ref stacyvm.Ref) bool {
	if !ref.ID.Valid() {
		return false
	}
	b, release := w.acquire(ref.ID)
	defer release()
	b.mu.Lock()
	defer b.mu.Unlock()
	w.loadTombstone(b)
	return ref.Fence.Compare(b.fence) <= 0
}

// loadTombstone reads the tombstone of a sandbox that has no record; b.mu is held.
func (w *Worker) loadTombstone(b *entry) {
	if b.read {
		return
	}
	if g := w.journal.tombstone(b.id); g != nil {
		b.fence, b.destroyed = g.Fence, g.Destroyed
	}
	b.read = true
}

// begin makes a job the one thing that goes on with the entry. It ends with ctx, with cancel and
// with the worker; b.mu is held.
func (w *Worker) begin(ctx context.Context, b *entry, kind string) (*job, error) {
	if err := w.enter(); err != nil {
		return nil, err
	}
	j := &job{kind: kind, done: make(chan struct{})}
	j.ctx, j.cancel = context.WithCancelCause(ctx)
	stop := context.AfterFunc(w.life, func() { j.cancel(errClosed) })
	context.AfterFunc(j.ctx, func() { stop() })
	b.job = j
	return j, nil
}

// finish lets the next job begin, after change, which runs with b.mu held.
func (w *Worker) finish(b *entry, j *job, change func()) {
	b.mu.Lock()
	change()
	b.job = nil
	b.mu.Unlock()
	j.cancel(nil)
	close(j.done)
	w.work.Done()
}

// wait waits for a job's end.
func (j *job) wait(ctx context.Context) error {
	select {
	case <-j.done:
		return nil
	case <-ctx.Done():
		return failure(ctx.Err(), "the sandbox is busy")
	}
}

// disconnect closes the connection to the guest; b.mu is held.
func (b *entry) disconnect() {
	if b.connection != nil {
		b.connection.transport.Close()
		b.connection = nil
	}
}
