package control

import (
	"context"
	"errors"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// reservation is a create until its row is written.
type reservation struct {
	plan    plan
	key     Idempotency
	cluster string
	draft   stacyvm.Sandbox

	made  stacyvm.Sandbox
	limit int              // how many creates its worker starts at a time; 0: any number
	first *stacyvm.Sandbox // that an earlier request with the same key made
	err   error
}

// reserve checks the request and writes, in one transaction: the key, the row in state creating, its lease, the audit
// line. It finds the sandbox of an earlier request with the same key instead when there is one. Where creates wait for room it
// may take a while, for as long as the caller does; what was begun is finished.
func (s *Service) reserve(ctx context.Context, request CreateRequest, key Idempotency) (*reservation, error) {
	none := &reservation{}
	if err := auth.From(ctx).Require(auth.ScopeAPISandboxes); err != nil {
		return none, err
	}
	if err := key.check(); err != nil {
		return none, err
	}
	if err := s.full(); err != nil {
		return none, err
	}
	p, err := s.plan(auth.From(ctx), request)
	if err != nil {
		return none, err
	}
	r := &reservation{plan: p, key: key, draft: stacyvm.Sandbox{
		ID: stacyvm.NewSandboxID(), State: stacyvm.StateCreating, Desired: stacyvm.DesiredRunning,
		Provider: p.spec.Provider, Image: p.spec.Image, Spec: p.spec,
		OwnerID: p.owner, TenantID: p.tenant, Metadata: p.metadata,
	}}
	if err := s.enter(ctx, r); err != nil {
		none.made = stacyvm.Sandbox{Provider: p.spec.Provider, TenantID: p.tenant}
		return none, err
	}
	return r, nil
}

// errRefused rolls a reservation back.
var errRefused = errors.New("refused")

// try writes the reservation if it is let in, and gives the admission if it is not. It sees what ended before began, and goes
// on when ctx ends. After a last refusal the store is not asked as long as no worker has room.
func (s *Service) try(ctx context.Context, r *reservation, began time.Time, last *stacyvm.Admission) (refused *stacyvm.Admission) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeWithin)
	defer cancel()
	var admission stacyvm.Admission
	r.err = s.seek(ctx, began, r.plan.spec, r.draft.ID, func(b bid) (bool, error) {
		if last != nil && b.place == nil && b.choice.Passing {
			admission = *last
			return false, errRefused
		}
		err := s.store.Update(ctx, func(tx store.Tx) (err error) {
			r.made = r.draft
			if r.first, err = claim(ctx, tx, r.key, r.draft.ID); err != nil || r.first != nil {
				return err
			}
			if admission, err = s.admission(ctx, tx, r.plan, b, true); err != nil {
				return err
			}
			if !admission.Allowed {
				return errRefused
			}
			cluster, err := tx.Cluster(ctx)
			if err != nil {
				return err
			}
			r.cluster, r.made.Fence.Incarnation = cluster.ID, cluster.Incarnation
			r.made, err = s.insert(ctx, tx, r.made, b.place)
			r.limit = b.place.starts
			return err
		})
		return err == nil && r.first == nil, err
	})
	if errors.Is(r.err, errRefused) {
		r.err = refusal(admission)
		return &admission
	}
	return nil
}

// enter lets a reservation in, at once or after its time in the line.
func (s *Service) enter(ctx context.Context, r *reservation) error {
	w := &waiter{owner: r.plan.tenant + "/" + r.plan.owner, settled: make(chan struct{})}
	w.try = func(began time.Time) *stacyvm.Admission { return s.try(ctx, r, began, w.refused) }
	if s.queue.free(w.owner) {
		if w.refused = w.try(time.Now()); w.refused == nil || !w.refused.Queueable || !s.queue.on {
			return r.err
		}
	}
	if !s.queue.join(w) {
		return s.turnedAway(w)
	}
	began := time.Now()
	s.tellQueue(ctx, stacyvm.KindSpawnQueued, r, 0)
	left := s.wait(ctx, w)
	s.queue.leave(w)
	select {
	case <-w.settled: // perhaps while it was leaving
		s.tellQueue(ctx, stacyvm.KindSpawnDequeued, r, time.Since(began))
		return r.err
	default:
	}
	if stacyvm.CodeOf(left) == stacyvm.CodeLimit {
		s.tellQueue(ctx, stacyvm.KindSpawnTimeout, r, time.Since(began))
	}
	return left
}

// wait returns when a waiter is settled, or why it must leave.
func (s *Service) wait(ctx context.Context, w *waiter) error {
	var timeout <-chan time.Time
	if s.queue.timeout > 0 {
		timer := time.NewTimer(s.queue.timeout)
		defer timer.Stop()
		timeout = timer.C
	}
	select {
	case <-w.settled:
		return nil
	case <-timeout:
		return stacyvm.Errorf(stacyvm.CodeLimit, "no room for the sandbox within %s", s.queue.timeout)
	case <-s.queue.closing:
		return errStopping
	case <-ctx.Done():
		return stacyvm.Wrap(stacyvm.CodeUnavailable, ctx.Err(), "the caller stopped waiting")
	}
}

var errStopping = stacyvm.Errorf(stacyvm.CodeUnavailable, "the server is stopping: creates do not wait any more")

// turnedAway is the error of a create that found no place in the line.
func (s *Service) turnedAway(w *waiter) error {
	select {
	case <-s.queue.closing:
		return errStopping
	default:
	}
	if w.refused != nil {
		return stacyvm.Errorf(stacyvm.CodeLimit, "%s, and %d creates wait already", refusal(*w.refused).Message, s.queue.limit)
	}
	return stacyvm.Errorf(stacyvm.CodeLimit, "%d creates wait for room already", s.queue.limit)
}

// tellQueue tells subscribers of a create in the line.
func (s *Service) tellQueue(ctx context.Context, kind stacyvm.Kind, r *reservation, waited time.Duration) {
	data := map[string]any{"provider": r.plan.spec.Provider}
	if r.plan.owner != "" {
		data["owner_id"] = r.plan.owner
	}
	if waited > 0 {
		data["waited_ms"] = waited.Milliseconds()
	}
	n := &stacyvm.Notice{Kind: kind, TenantID: r.plan.tenant, Data: data}
	if kind == stacyvm.KindSpawnDequeued && r.err == nil && r.first == nil {
		n.SandboxID = r.made.ID
	}
	s.audit.Publish(ctx, n)
}

// Drain sends those who wait for room or for their turn away with CodeUnavailable and lets nobody wait any more: for a server
// that stops.
func (s *Service) Drain() {
	s.queue.close()
	s.starts.close()
}
