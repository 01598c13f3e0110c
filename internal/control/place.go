package control

import (
	"context"
	"errors"
	"hash/fnv"
	"math"
	"time"

	"github.com/stacyvm/stacyvm/internal/schedule"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

const (
	// placeTries is how many workers a create may find taken before it gives up, and pickyTries how many of them it leaves
	// because others were faster, although it has room there.
	placeTries = 32
	pickyTries = 3
)

// errElsewhere is a worker that cannot take the sandbox although it seemed so: another one is looked for.
var errElsewhere = stacyvm.Errorf(stacyvm.CodeUnavailable, "places are taken faster than they are found; try again")

// bid is a worker that seems to have room, before it was looked at itself.
type bid struct {
	choice schedule.Choice
	place  *placement // nil without a worker
	served bool       // some worker has the engine
}

// seek finds bids for a sandbox until use is content with one. use looks at the worker in a transaction of its own, and gives
// errElsewhere when it cannot be had; kept is whether it wrote the sandbox. Each transaction asks for one worker only: one that
// waited for a second, while it holds a first, could meet another that does it the other way round. What has ended before
// began is seen.
func (s *Service) seek(ctx context.Context, began time.Time, spec stacyvm.Spec, id stacyvm.SandboxID, use func(bid) (kept bool, err error)) error {
	seed := seedOf(id)
	if err := s.fleet.fresh(ctx); err != nil {
		return err
	}
	for try := range uint64(placeTries) {
		var b bid
		b.choice, b.place, b.served = s.fleet.choose(spec, seed+try)
		if b.place == nil { // perhaps something ended since the count
			if err := s.fleet.since(ctx, began, began); err != nil {
				return err
			}
			b.choice, b.place, b.served = s.fleet.choose(spec, seed+try)
		}
		if b.place != nil && try >= pickyTries {
			b.place.most = math.MaxInt
		}
		kept, err := use(b)
		if b.place != nil {
			s.fleet.settle(b.place, kept)
		}
		if !errors.Is(err, errElsewhere) {
			return err
		}
	}
	return errElsewhere
}

// seedOf is the same for one sandbox everywhere.
func seedOf(id stacyvm.SandboxID) uint64 {
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(id))
	return hash.Sum64()
}

// inspect looks at the bid's worker itself, and leaves it when others were faster. In an Update what it has stays so until the
// end among those who ask for the same; a worker without limits is not added up, so that nobody waits for it.
func (s *Service) inspect(ctx context.Context, tx store.Tx, spec stacyvm.Spec, p *placement) error {
	w, used, err := tx.Workers().Offer(ctx, p.worker)
	switch {
	case stacyvm.CodeOf(err) == stacyvm.CodeNotFound:
		w = stacyvm.Worker{ID: p.worker, Status: "deleted"}
	case err != nil:
		return err
	}
	now, err := tx.Now(ctx)
	if err != nil {
		return err
	}
	seen := s.fleet.candidate(w, used, now)
	p.session, p.starts = w.Session, w.Capacity.ParallelCreates
	s.fleet.learn(p, seen)
	if !schedule.Eligible(spec, seen) || seen.Used.Sandboxes > p.most {
		return errElsewhere
	}
	return nil
}
