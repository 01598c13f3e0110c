package lease

import (
	"context"
	"slices"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// batch is how many leases one transaction takes over.
const batch = 200

// TakeOver gives the process what it does not hold of its worker's sandboxes: what an earlier process of the same worker had, and what
// was placed while the one followed the other. Each gets a new epoch, so that the earlier process can no longer write. still is asked in
// each transaction whether the process is the registered one, and keeps it so until the end; its error ends the takeover. refused are
// those that another worker has, or that have ended meanwhile.
func (h Holder) TakeOver(ctx context.Context, s store.Store, still func(context.Context, store.Tx) error) (taken, refused []stacyvm.Sandbox, err error) {
	inherited, err := h.inherited(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	for rows := range slices.Chunk(inherited, batch) {
		var here, gone []stacyvm.Sandbox
		err := s.Update(ctx, func(tx store.Tx) error {
			here, gone = nil, nil // it may run again
			if err := still(ctx, tx); err != nil {
				return err
			}
			for _, row := range rows {
				_, err := h.Acquire(ctx, tx, row.ID, stacyvm.LeaseTTL)
				switch stacyvm.CodeOf(err) {
				case "":
					here = append(here, row)
				case stacyvm.CodeConflict:
					gone = append(gone, row)
				default:
					return err
				}
			}
			return nil
		})
		if err != nil {
			return taken, refused, err
		}
		taken, refused = append(taken, here...), append(refused, gone...)
	}
	return taken, refused, nil
}

// inherited lists the worker's sandboxes whose lease the process does not hold. It may have some already: requests are answered while
// it starts.
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
