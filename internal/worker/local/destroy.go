package local

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

var errDestroyed = stacyvm.Errorf(stacyvm.CodeConflict, "the sandbox was destroyed meanwhile")

// Destroy implements worker.Worker. It ends a create that is under way. After an error the sandbox
// is still in the journal and the call may be repeated. CodeStaleEpoch: the fence is old, nothing
// was changed.
func (w *Worker) Destroy(ctx context.Context, ref stacyvm.Ref) error {
	if !ref.ID.Valid() {
		return stacyvm.Invalid("id", "must be a sandbox id")
	}
	if w.life.Err() != nil {
		return errClosed
	}
	b, release := w.acquire(ref.ID)
	defer release()
	for {
		mine, others, err := w.admitDestroy(ctx, b, ref)
		if err != nil {
			return err
		}
		if mine != nil {
			return w.destroy(b, mine, ref)
		}
		if err := others.wait(ctx); err != nil {
			return err
		}
	}
}

func (w *Worker) admitDestroy(ctx context.Context, b *entry, ref stacyvm.Ref) (mine, others *job, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w.loadTombstone(b)
	if err := w.admit(b, ref.Fence); err != nil {
		return nil, nil, err
	}
	b.destroyed = true
	if b.job != nil {
		if b.job.kind != kindDestroy {
			b.job.cancel(errDestroyed)
		}
		return nil, b.job, nil
	}
	mine, err = w.begin(ctx, b, kindDestroy)
	return mine, nil, err
}

// destroy is the job of removing a sandbox. The tombstone comes last: until then a crash leaves
// the record, and the call is repeated.
func (w *Worker) destroy(b *entry, j *job, ref stacyvm.Ref) (err error) {
	defer w.finish(b, j, func() {})
	b.mu.Lock()
	r, l := b.record, b.connection
	b.connection = nil
	b.mu.Unlock()
	if r == nil {
		if r, err = w.unrecorded(j.ctx, b, ref); err != nil {
			return err
		}
	}
	var instance engine.Instance
	if l != nil {
		l.transport.Close()
		instance = l.instance
	}
	if r != nil {
		if err := w.removeRuntime(j.ctx, b.id, r, instance); err != nil {
			return failure(err, "the sandbox's runtime could not be removed")
		}
	}
	if err := w.images.Release(string(b.id)); err != nil {
		return err
	}
	return w.writeTombstone(b)
}

// unrecorded looks for a runtime whose record is missing or damaged. Its labels say whose it was
// when it was made. nil: there is none. The fence is on disk before anything is removed.
func (w *Worker) unrecorded(ctx context.Context, b *entry, ref stacyvm.Ref) (*record, error) {
	all, err := w.runtimes(ctx)
	if err != nil {
		return nil, err
	}
	for _, found := range all {
		if found.ID != b.id {
			continue
		}
		if ref.Fence.Compare(fenceOf(found.Labels)) < 0 {
			b.mu.Lock()
			b.fence, b.destroyed = fenceOf(found.Labels), false
			b.mu.Unlock()
			return nil, stacyvm.Errorf(stacyvm.CodeStaleEpoch, "the sandbox has a newer owner")
		}
		return &record{Engine: found.engine}, w.writeTombstone(b)
	}
	return nil, nil
}

// writeTombstone writes the tombstone and forgets the record. A tombstone that is there already
// stays as it is.
func (w *Worker) writeTombstone(b *entry) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	wanted := tombstone{Fence: b.fence, Destroyed: b.destroyed}
	if b.damaged != nil {
		w.log.Warn(
			"a damaged journal entry is replaced: its sandbox is destroyed",
			"sandbox",
			b.id,
			"error",
			b.damaged,
		)
	}
	if b.record == nil && b.damaged == nil {
		if known := w.journal.tombstone(b.id); known != nil && *known == wanted {
			return w.journal.restore()
		}
	}
	if err := w.journal.writeTombstone(b.id, wanted); err != nil {
		return err
	}
	b.record, b.damaged, b.read = nil, nil, true
	return nil
}

// removeRuntime removes whatever an engine has of a sandbox.
func (w *Worker) removeRuntime(ctx context.Context, id stacyvm.SandboxID, r *record, instance engine.Instance) error {
	if instance != nil {
		return instance.Destroy(ctx)
	}
	e := w.engine(r.Engine)
	if e == nil {
		return stacyvm.Errorf(stacyvm.CodeUnavailable, "provider %s is not enabled on this machine", r.Engine)
	}
	if remover, ok := e.(engine.Remover); ok {
		return remover.Remove(ctx, id)
	}
	found, err := e.Attach(ctx, id, guest.Secret(r.Secret))
	if stacyvm.CodeOf(err) == stacyvm.CodeNotFound {
		return nil
	}
	if err != nil {
		return err
	}
	return found.Destroy(ctx)
}

// Clear destroys every sandbox of this worker, with the fences that it knows: for a machine that
// is given up. Nobody else may call it meanwhile.
func (w *Worker) Clear(ctx context.Context) error {
	ids := map[stacyvm.SandboxID]stacyvm.Fence{}
	for _, b := range w.all() {
		b.mu.Lock()
		ids[b.id] = b.fence
		b.mu.Unlock()
	}
	all, err := w.runtimes(ctx)
	if err != nil {
		return err
	}
	for _, f := range all {
		if fence := fenceOf(f.Labels); fence.Compare(ids[f.ID]) > 0 {
			ids[f.ID] = fence
		}
	}
	var clearing errgroup.Group
	clearing.SetLimit(clears)
	for id, fence := range ids {
		clearing.Go(func() error { return w.Destroy(ctx, stacyvm.Ref{ID: id, Fence: fence}) })
	}
	return clearing.Wait()
}

// clears is how many sandboxes Clear removes at once.
const clears = 8
