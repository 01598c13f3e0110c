package placement

import (
	"context"
	"hash/fnv"
	"iter"
	"math"
	"time"

	"github.com/stacyvm/stacyvm/internal/schedule"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

const (
	// placeTries is how many workers a create may find taken before it gives up, and pickyTries
	// how many of them it leaves because others were faster, although it has room there.
	placeTries = 32
	pickyTries = 3
)

// errContended ends a transaction on a worker that has no room after all, and a create that met
// nothing else.
var errContended = stacyvm.Errorf(stacyvm.CodeUnavailable, "places are taken faster than they are found; try again")

// candidate is a worker that seems to have room, before it was looked at itself.
type candidate struct {
	choice schedule.Choice
	slot   *slot // nil without a worker
	served bool  // some worker has the engine
}

// candidates gives candidates for a sandbox, one after the other, each with a slot that the
// caller releases. It counts what has ended before began as ended. An error is the last that it
// gives.
func (f *fleet) candidates(ctx context.Context, began time.Time, draft stacyvm.Sandbox) iter.Seq2[candidate, error] {
	return func(yield func(candidate, error) bool) {
		if err := f.refresh(ctx); err != nil {
			yield(candidate{}, err)
			return
		}
		seed := seedOf(draft.ID)
		for try := range uint64(placeTries) {
			c := f.choose(draft.Spec, seed+try)
			if c.slot == nil { // perhaps something ended since the count
				if err := f.ensure(ctx, began, began); err != nil {
					yield(candidate{}, err)
					return
				}
				c = f.choose(draft.Spec, seed+try)
			}
			if c.slot != nil && try >= pickyTries {
				c.slot.most = math.MaxInt
			}
			if !yield(c, nil) {
				return
			}
		}
	}
}

// seedOf is the same for one sandbox everywhere.
func seedOf(id stacyvm.SandboxID) uint64 {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(id))
	return hash.Sum64()
}

// inspect looks at a slot's worker itself; taken: others were faster. In an Update what the
// worker has stays so until the end among those who ask for the same; a worker without limits is
// not added up, so that nobody waits for it.
func (p *Placer) inspect(ctx context.Context, tx store.Tx, spec stacyvm.Spec, s *slot) (taken bool, err error) {
	w, used, err := tx.Workers().Offer(ctx, s.worker)
	switch {
	case stacyvm.CodeOf(err) == stacyvm.CodeNotFound:
		w = stacyvm.Worker{ID: s.worker, Status: "deleted"}
	case err != nil:
		return false, err
	}
	now, err := tx.Now(ctx)
	if err != nil {
		return false, err
	}
	seen := p.fleet.assess(w, used, now)
	s.session, s.starts = w.Session, w.Capacity.ParallelCreates
	p.fleet.learn(s, seen)
	return !schedule.Eligible(spec, seen) || seen.Used.Sandboxes > s.most, nil
}
