package lease

import (
	"context"
	"slices"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// TakeOver gives the process what it does not hold of its worker's sandboxes: what an earlier
// process of the same worker had, and what was placed while the one followed the other. Each gets
// a new epoch, so that the earlier process can no longer write. They are taken in batches; an
// error ends the takeover, and what was taken stays taken. refused are those that another worker
// has, or that have ended meanwhile.
func (h Holder) TakeOver(
	ctx context.Context,
	s store.Store,
	registered Registered,
) (taken, refused []stacyvm.Sandbox, err error) {
	inherited, err := h.inherited(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	for rows := range slices.Chunk(inherited, batch) {
		ids := make([]stacyvm.SandboxID, len(rows))
		for i, row := range rows {
			ids[i] = row.ID
		}
		_, gone, err := h.acquireBatch(ctx, s, registered, ids, stacyvm.LeaseTTL, true)
		if err != nil {
			return taken, refused, err
		}
		for _, row := range rows {
			if slices.Contains(gone, row.ID) {
				refused = append(refused, row)
			} else {
				taken = append(taken, row)
			}
		}
	}
	return taken, refused, nil
}

// inherited lists the worker's sandboxes whose lease the process does not hold. It may have some
// already: requests are answered while it starts.
func (h Holder) inherited(ctx context.Context, s store.Store) (rows []stacyvm.Sandbox, err error) {
	err = s.View(ctx, func(tx store.Tx) error {
		leases, err := tx.Leases().List(ctx, h.Worker, store.Page{})
		if err != nil {
			return err
		}
		own := map[string]bool{}
		for _, l := range leases {
			own[l.Resource] = l.Session == h.Session
		}
		if rows, err = tx.Sandboxes().List(ctx, store.SandboxFilter{Worker: h.Worker}); err != nil {
			return err
		}
		rows = slices.DeleteFunc(rows, func(row stacyvm.Sandbox) bool { return own[string(row.ID)] })
		return nil
	})
	return rows, err
}
