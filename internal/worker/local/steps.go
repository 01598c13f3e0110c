package local

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// step is one part of what is done as a whole or not at all.
type step struct {
	name   string
	within time.Duration // its own deadline; 0: that of the whole
	do     func(context.Context) error
	undo   func(context.Context) error // also after do failed, which may have been half done; nil: it leaves nothing
}

type steps []step

// run does the steps in turn and stops at the first that fails. done are those that were begun. A
// step that was ended because its own time passed is a CodeUnavailable error that names it; what
// it failed for otherwise is kept, however late.
func (list steps) run(ctx context.Context) (done steps, err error) {
	for n, s := range list {
		if err := s.run(ctx); err != nil {
			return list[:n+1], err
		}
	}
	return list, nil
}

func (s step) run(ctx context.Context) error {
	if s.within == 0 {
		return s.do(ctx)
	}
	bounded, cancel := context.WithTimeout(ctx, s.within)
	defer cancel()
	err := s.do(bounded)
	late := errors.Is(err, context.DeadlineExceeded) || stacyvm.CodeOf(err) == stacyvm.CodeTimeout
	if err != nil && late && bounded.Err() != nil && ctx.Err() == nil {
		return stacyvm.Wrap(
			stacyvm.CodeUnavailable,
			err,
			"the sandbox could not be created: its "+s.name+" took longer than "+s.within.String(),
		)
	}
	return err
}

// undo takes steps back, the last one first, also when ctx has ended, and stops where one fails:
// what is left is for recovery.
func (list steps) undo(ctx context.Context, within time.Duration) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), within)
	defer cancel()
	for _, s := range slices.Backward(list) {
		if s.undo == nil {
			continue
		}
		if err := s.undo(ctx); err != nil {
			return err
		}
	}
	return nil
}
