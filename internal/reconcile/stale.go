package reconcile

import (
	"context"
	"fmt"
	"time"

	"github.com/stacyvm/stacyvm/internal/lease"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// acting reports whether a worker is there and in service.
func acting(w stacyvm.Worker, now time.Time) bool {
	return now.Sub(w.LastHeartbeat) <= stacyvm.WorkerStaleAfter && w.Status.Acts()
}

// Stale tells the truth of sandboxes whose worker is stale, out of service or not registered any
// more. While the database settles every worker looks gone, and nothing is said of them. It does
// nothing without the duty.
func (d *duties) Stale(ctx context.Context) error {
	held := d.holding(upkeep)
	if held == nil {
		return nil
	}
	if until, err := d.settlesAt(ctx); err != nil || !until.IsZero() {
		return err
	}
	gone, err := d.gone(ctx)
	if err != nil {
		return err
	}
	for id, registered := range gone {
		rows, err := list(ctx, d.store, store.SandboxFilter{Worker: id, States: ownedStates})
		if err != nil {
			return err
		}
		if err := held.markUnreachable(ctx, id, rows, stacyvm.ReasonWorkerStale); err != nil {
			return err
		}
		if registered {
			continue
		}
		if rows, err = list(ctx, d.store, store.SandboxFilter{Worker: id}); err != nil {
			return err
		}
		held.endUnowned(ctx, rows)
	}
	return nil
}

// endUnowned ends sandboxes of a worker that is not registered any more, when their time is over
// or they are to be destroyed: nobody is left who would do it, and they would count against limits
// for ever.
func (p process) endUnowned(ctx context.Context, rows []stacyvm.Sandbox) {
	each(ctx, p.log, rows, func(ctx context.Context, row stacyvm.Sandbox) error {
		if row.State != stacyvm.StateExpired && row.Desired != stacyvm.DesiredDestroyed {
			return nil
		}
		return p.store.Update(ctx, func(tx store.Tx) error { return markDestroyed(ctx, tx, row, forgotten, "") })
	})
}

// gone gives the workers that have sandboxes and do not act, and whether they are registered.
func (d *duties) gone(ctx context.Context) (gone map[stacyvm.WorkerID]bool, err error) {
	err = d.store.View(ctx, func(tx store.Tx) error {
		now, err := tx.Now(ctx)
		if err != nil {
			return err
		}
		loads, err := tx.Workers().Loads(ctx, time.Time{})
		if err != nil {
			return err
		}
		delete(loads, d.own) // whatever its row says
		gone = map[stacyvm.WorkerID]bool{}
		for id := range loads {
			gone[id] = false
		}
		workers, err := tx.Workers().List(ctx, store.Page{})
		for _, w := range workers {
			if _, has := gone[w.ID]; has {
				gone[w.ID] = true
			}
			if acting(w, now) {
				delete(gone, w.ID)
			}
		}
		return err
	})
	return gone, err
}

// ownedStates are the states that tell something of the owner.
var ownedStates = []stacyvm.State{
	stacyvm.StateRunning,
	stacyvm.StatePaused,
	stacyvm.StateUnhealthy,
	stacyvm.StateExpired,
}

// markUnreachable tells the truth of sandboxes for which nobody acts: unhealthy, and when their
// time has passed expired, without an owner. Nothing is destroyed; the worker gets them back when
// it returns.
func (p process) markUnreachable(
	ctx context.Context,
	id stacyvm.WorkerID,
	rows []stacyvm.Sandbox,
	reason stacyvm.Reason,
) error {
	var now time.Time
	cause := stacyvm.Cause{Reason: reason}
	leased := map[string]bool{}
	err := p.store.View(ctx, func(tx store.Tx) (err error) {
		if now, err = tx.Now(ctx); err != nil {
			return err
		}
		if cause, err = lastSign(ctx, tx, id, reason); err != nil {
			return err
		}
		leases, err := tx.Leases().List(ctx, id, store.Page{})
		for _, held := range leases {
			leased[held.Resource] = true
		}
		return err
	})
	if err != nil {
		return err
	}
	each(ctx, p.log, rows, func(ctx context.Context, row stacyvm.Sandbox) error {
		switch late := !now.Before(row.ExpiresAt); {
		case !late && row.State.CanBecome(stacyvm.StateUnhealthy):
			return p.change(ctx, row, stacyvm.StateUnhealthy, cause)
		case late && row.State.CanBecome(stacyvm.StateExpired),
			row.State == stacyvm.StateExpired && leased[string(row.ID)]:
			return p.expire(ctx, row, cause)
		}
		return nil
	})
	return nil
}

// expire makes a sandbox expired, if it is not, and lets its lease go: only its end is left,
// whoever comes to bring it about.
func (p process) expire(ctx context.Context, row stacyvm.Sandbox, cause stacyvm.Cause) error {
	return p.store.Update(ctx, func(tx store.Tx) error {
		if row.State != stacyvm.StateExpired {
			if _, err := tx.Sandboxes().
				Apply(ctx, row.ID, row.Fence, store.Change{State: stacyvm.StateExpired, Cause: &cause}); err != nil {
				return err
			}
		}
		return lease.Release(ctx, tx, row)
	})
}

// lastSign is the cause of sandboxes whose worker is away: since its last heartbeat, where one is
// known.
func lastSign(ctx context.Context, tx store.Tx, id stacyvm.WorkerID, reason stacyvm.Reason) (stacyvm.Cause, error) {
	w, err := tx.Workers().Get(ctx, id)
	switch {
	case stacyvm.CodeOf(err) == stacyvm.CodeNotFound:
		return stacyvm.Cause{Reason: reason, Detail: fmt.Sprintf("worker %s is not registered any more", id)}, nil
	case err != nil:
		return stacyvm.Cause{}, err
	}
	detail := fmt.Sprintf("worker %s, status %s", id, w.Status)
	if reason == stacyvm.ReasonWorkerStale {
		return stacyvm.Cause{Reason: reason, Detail: detail, Since: w.LastHeartbeat}, nil
	}
	return stacyvm.Cause{Reason: reason, Detail: detail}, nil
}

// change writes and logs what was found out about a sandbox; an empty state stays as it is.
func (p process) change(ctx context.Context, row stacyvm.Sandbox, state stacyvm.State, cause stacyvm.Cause) error {
	var changed stacyvm.Sandbox
	err := p.store.Update(ctx, func(tx store.Tx) (err error) {
		changed, err = tx.Sandboxes().Apply(ctx, row.ID, row.Fence, store.Change{State: state, Cause: &cause})
		return err
	})
	if err == nil {
		p.warn(changed)
	}
	return err
}

// warn logs that a sandbox is not well any more.
func (p process) warn(row stacyvm.Sandbox) {
	p.log.Warn(
		"a sandbox is not well",
		"sandbox",
		row.ID,
		"state",
		row.State,
		"reason",
		row.Reason,
		"detail",
		row.Detail,
		"since",
		row.Since,
	)
}
