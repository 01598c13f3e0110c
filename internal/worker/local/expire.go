package local

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

var _ worker.Expirer = (*Worker)(nil)

// Expire implements worker.Expirer. The engine keeps the time, and the journal does not: the
// engine acts by it.
func (w *Worker) Expire(ctx context.Context, ref stacyvm.Ref, at time.Time) error {
	if err := w.enter(); err != nil {
		return err
	}
	defer w.work.Done()
	b := w.lookup(ref.ID)
	if b == nil {
		return errNotHere
	}
	r, err := w.admitExpire(b, ref.Fence)
	if err != nil {
		return err
	}
	e, ok := w.engine(r.Engine).(engine.Expirer)
	if !ok {
		return stacyvm.Errorf(stacyvm.CodeUnsupported, "provider %s cannot be told when a sandbox expires", r.Engine)
	}
	ctx, cancel := w.whileOpen(ctx)
	defer cancel()
	return failure(e.Expire(ctx, b.id, at), "the sandbox's expiry could not be changed")
}

func (w *Worker) admitExpire(b *entry, fence stacyvm.Fence) (*record, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.damaged != nil:
		return nil, stacyvm.Wrap(stacyvm.CodeUnavailable, b.damaged, "the worker's record of the sandbox is damaged")
	case b.record == nil:
		return nil, errNotHere
	}
	return b.record, w.admit(b, fence)
}
