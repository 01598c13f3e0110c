package placement

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/control/audit"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// Request is a create that looks for a place.
type Request struct {
	Caller stacyvm.Principal
	Draft  stacyvm.Sandbox // the row, without a worker
	// Claim begins each transaction. It gives the sandbox that an earlier request has made; then
	// nothing is written.
	Claim func(context.Context, store.Tx) (*stacyvm.Sandbox, error)
	Key   *store.IdempotencyRecord // that Claim claims; nil: none
}

// owner keeps the lines of different owners apart.
func (r Request) owner() string { return r.Draft.TenantID + "/" + r.Draft.OwnerID }

// Result is what a request came to.
type Result struct {
	Sandbox stacyvm.Sandbox  // the row as it was written, in state creating
	Earlier *stacyvm.Sandbox // that an earlier request has made; Sandbox is empty then
	Cluster string           // id of the cluster
	Starts  int              // how many creates the worker starts at a time; 0: any number
}

// attempt is what one try came to.
type attempt struct {
	Result
	admission stacyvm.Admission
	refused   bool // admission says why; the error says it to the caller
	taken     bool // the worker has no room after all: another one is tried
}

// waits reports whether the create may stand in line for a next try.
func (a attempt) waits() bool { return a.refused && a.admission.Queueable }

// Place writes, in one transaction: what Claim writes, the row in state creating on a worker that
// has room, its lease and the audit line. Where creates wait for room it may take a while, for as
// long as the caller does; what was begun is finished. CodeLimit: there is no room, or no more
// than the caller may have; CodeNotFound: no such provider; CodeUnavailable.
func (p *Placer) Place(ctx context.Context, r Request) (Result, error) {
	var last *stacyvm.Admission
	if p.queue.free(r.owner()) {
		a, err := p.try(ctx, r, time.Now(), nil)
		if !a.waits() || !p.queue.On {
			return a.Result, err
		}
		last = &a.admission
	}
	w := p.queue.join(r.owner())
	if w == nil {
		return Result{}, p.turnedAway(last)
	}
	defer p.queue.leave(w)
	return p.placeInTurn(ctx, r, w, last)
}

// placeInTurn tries at each of the waiter's turns, until the create has come to something or the
// waiter must leave.
func (p *Placer) placeInTurn(ctx context.Context, r Request, w *waiter, last *stacyvm.Admission) (Result, error) {
	began := time.Now()
	p.publish(ctx, stacyvm.KindSpawnQueued, r, "", 0)
	for {
		turn, err := p.queue.next(ctx, w)
		if err != nil {
			p.queue.leave(w)
			if stacyvm.CodeOf(err) == stacyvm.CodeLimit {
				p.publish(ctx, stacyvm.KindSpawnTimeout, r, "", time.Since(began))
			}
			return Result{}, err
		}
		a, err := p.try(ctx, r, turn, last)
		if !a.waits() {
			p.queue.leave(w) // before subscribers are told: those behind wait for it
			p.publish(ctx, stacyvm.KindSpawnDequeued, r, a.Sandbox.ID, time.Since(began))
			return a.Result, err
		}
		last = &a.admission
		w.refused <- last.Reason
	}
}

// try takes the first candidate that has room, if the create is let in. It sees what ended before
// began, and goes on when ctx ends. After a last refusal the store is not asked as long as no
// worker has room.
func (p *Placer) try(ctx context.Context, r Request, began time.Time, last *stacyvm.Admission) (attempt, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeWithin)
	defer cancel()
	for c, err := range p.fleet.candidates(ctx, began, r.Draft) {
		if err != nil {
			return attempt{}, err
		}
		if last != nil && c.slot == nil && c.choice.Passing {
			return attempt{admission: *last, refused: true}, refusal(*last)
		}
		a, err := p.reserve(ctx, r, c)
		p.fleet.release(c.slot, err == nil && a.Earlier == nil)
		if !a.taken {
			return a, err
		}
	}
	return attempt{}, errContended
}

// reserve writes the row on the candidate's worker, together with those of creates that come at the
// same time if nothing stands against that.
func (p *Placer) reserve(ctx context.Context, r Request, c candidate) (attempt, error) {
	one := &reservation{ctx: ctx, request: r, candidate: c}
	if p.plain(r, c) {
		p.together.Do(one)
	}
	if one.done {
		return one.attempt, one.err
	}
	return p.reserveAlone(ctx, r, c)
}

// reserveAlone is reserve in a transaction of the create's own. Each transaction asks for one worker only:
// one that waited for a second, while it holds a first, could meet another that does it the other
// way round.
func (p *Placer) reserveAlone(ctx context.Context, r Request, c candidate) (a attempt, err error) {
	err = p.store.Update(ctx, func(tx store.Tx) (err error) {
		a = attempt{}
		if a.Earlier, err = r.Claim(ctx, tx); err != nil || a.Earlier != nil {
			return err
		}
		if a.admission, a.taken, err = p.admission(ctx, tx, r.Draft, c, true); err != nil {
			return err
		}
		switch {
		case a.taken:
			return errContended
		case !a.admission.Allowed:
			a.refused = true
			return refusal(a.admission)
		}
		a.Result, err = p.insert(ctx, tx, r, c.slot)
		return err
	})
	if err != nil {
		a.Result = Result{}
	}
	return a, err
}

// insert writes the row, takes the lease for the row's worker and adds the audit line.
func (p *Placer) insert(ctx context.Context, tx store.Tx, r Request, s *slot) (Result, error) {
	results, err := p.insertAll(ctx, tx, s, r)
	if err != nil {
		return Result{}, err
	}
	return results[0], nil
}

// insertAll is insert of several on one worker, whose session and starts the slot has.
func (p *Placer) insertAll(ctx context.Context, tx store.Tx, s *slot, requests ...Request) ([]Result, error) {
	cluster, err := tx.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	session := s.session
	if s.worker == p.self {
		session = p.session
	}
	rows := make([]stacyvm.Sandbox, len(requests))
	for i, r := range requests {
		rows[i] = r.Draft
		rows[i].WorkerID, rows[i].Fence.Incarnation = s.worker, cluster.Incarnation
	}
	if rows, err = tx.Sandboxes().InsertHeld(ctx, session, stacyvm.LeaseTTL, rows...); err != nil {
		return nil, err
	}
	results, lines := make([]Result, len(rows)), make([]stacyvm.Operation, len(rows))
	for i, row := range rows {
		results[i] = Result{Sandbox: row, Cluster: cluster.ID, Starts: s.starts}
		lines[i] = audit.Operation(requests[i].Caller, "sandbox.spawn", row, row.Image, nil)
	}
	return results, tx.Audit().AppendOperations(ctx, lines)
}

// turnedAway is the error of a create that found no place in the line.
func (p *Placer) turnedAway(last *stacyvm.Admission) error {
	select {
	case <-p.queue.closing:
		return errStopping
	default:
	}
	if last != nil {
		return stacyvm.Errorf(stacyvm.CodeLimit, "%s, and %d creates wait already", refusal(*last).Message,
			p.queue.Length)
	}
	return stacyvm.Errorf(stacyvm.CodeLimit, "%d creates wait for room already", p.queue.Length)
}

// publish tells subscribers of a create in the line; id is the sandbox that it made.
func (p *Placer) publish(
	ctx context.Context, kind stacyvm.Kind, r Request, id stacyvm.SandboxID, waited time.Duration,
) {
	data := map[string]any{"provider": r.Draft.Spec.Provider}
	if r.Draft.OwnerID != "" {
		data["owner_id"] = r.Draft.OwnerID
	}
	if waited > 0 {
		data["waited_ms"] = waited.Milliseconds()
	}
	p.audit.Publish(ctx, &stacyvm.Event{Kind: kind, SandboxID: id, TenantID: r.Draft.TenantID, Data: data})
}
