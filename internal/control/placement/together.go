package placement

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/schedule"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// togetherMost is how many creates are written in one transaction.
const togetherMost = 32

// reservation is a create that is written with others.
type reservation struct {
	ctx       context.Context
	request   Request
	candidate candidate

	done bool // else it is to be written alone
	attempt
	err error
}

// plain reports whether nothing has to be counted for a create, and nothing speaks against it.
func (p *Placer) plain(r Request, c candidate) bool {
	if c.slot == nil || p.limits.Total > 0 || p.limits.PerOwner > 0 && r.Draft.OwnerID != "" ||
		p.fleet.limited(c.slot.worker) {
		return false
	}
	a, err := decide(stacyvm.Admission{MaxTTL: p.limits.TTL}, r.Draft, c)
	return err == nil && a.Allowed
}

// reserveTogether writes creates that came at the same time, those of each worker in a transaction.
func (p *Placer) reserveTogether(all []*reservation) {
	workers := map[stacyvm.WorkerID][]*reservation{}
	for _, one := range all {
		id := one.candidate.slot.worker
		workers[id] = append(workers[id], one)
	}
	for _, some := range workers {
		p.reserveOn(some)
	}
}

// reserveOn writes creates on one worker. Those about which there is something to decide, and all of
// them when the transaction fails and was not kept for certain, are left to be written alone.
func (p *Placer) reserveOn(all []*reservation) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(all[0].ctx), storeWithin)
	defer cancel()
	var placed []*reservation
	var results []Result
	err := p.store.Update(ctx, func(tx store.Tx) (err error) {
		if placed, err = p.eligible(ctx, tx, all); err != nil {
			return err
		}
		if placed, err = begun(ctx, tx, placed); err != nil || len(placed) == 0 {
			return err
		}
		requests := make([]Request, len(placed))
		for i, one := range placed {
			requests[i] = one.request
		}
		results, err = p.insertAll(ctx, tx, placed[0].candidate.slot, requests...)
		return err
	})
	switch {
	case err == nil:
		for i, one := range placed {
			one.done, one.Result = true, results[i]
		}
	case stacyvm.CodeOf(err) == stacyvm.CodeUnavailable: // perhaps it was kept
		for _, one := range placed {
			one.done, one.err = true, err
		}
	}
}

// eligible gives the creates for which their worker, which is looked at itself, is a good place.
func (p *Placer) eligible(ctx context.Context, tx store.Tx, all []*reservation) (good []*reservation, err error) {
	w, used, err := tx.Workers().Offer(ctx, all[0].candidate.slot.worker)
	if err != nil || w.Capacity.Limited() { // each counts alone
		return nil, err
	}
	now, err := tx.Now(ctx)
	if err != nil {
		return nil, err
	}
	seen := p.fleet.assess(w, used, now)
	for _, one := range all {
		s := one.candidate.slot
		s.session, s.starts = w.Session, w.Capacity.ParallelCreates
		p.fleet.learn(s, seen)
		if schedule.Eligible(one.request.Draft.Spec, seen) && seen.Used.Sandboxes <= s.most {
			good = append(good, one)
		}
	}
	return good, nil
}

// begun claims keys, and gives the creates whose key was new, or that have none.
func begun(ctx context.Context, tx store.Tx, all []*reservation) (fresh []*reservation, err error) {
	var claims []store.IdempotencyRecord
	for _, one := range all {
		if one.request.Key != nil {
			claims = append(claims, *one.request.Key)
		}
	}
	if len(claims) == 0 {
		return all, nil
	}
	claimed, err := tx.Idempotency().BeginNew(ctx, claims)
	if err != nil {
		return nil, err
	}
	for _, one := range all {
		mine := true
		if one.request.Key != nil {
			mine, claimed = claimed[0], claimed[1:]
		}
		if mine {
			fresh = append(fresh, one)
		}
	}
	return fresh, nil
}
