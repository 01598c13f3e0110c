package lease

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// End makes a sandbox's row a tombstone, for a cause if one is given, and releases its lease. It
// reports whether it did: a row that is a tombstone already stays as it is. CodeStaleEpoch: the
// sandbox has a newer owner.
func End(ctx context.Context, tx store.Tx, sandbox stacyvm.Sandbox, cause stacyvm.Cause) (ended bool, err error) {
	change := store.Change{State: stacyvm.StateDestroyed}
	if cause.Reason != "" {
		change.Cause = &cause
	}
	_, err = tx.Sandboxes().Apply(ctx, sandbox.ID, sandbox.Fence, change)
	switch stacyvm.CodeOf(err) {
	case "":
		return true, Release(ctx, tx, sandbox)
	case stacyvm.CodeConflict, stacyvm.CodeStaleEpoch:
		current, failed := tx.Sandboxes().Get(ctx, sandbox.ID)
		if failed != nil || !current.State.Active() {
			return false, failed
		}
		return false, err
	default:
		return false, err
	}
}

// Release ends a sandbox's lease; one that ran out before is a success.
func Release(ctx context.Context, tx store.Tx, sandbox stacyvm.Sandbox) error {
	return tx.Leases().ReleaseHeld(ctx, string(sandbox.ID), sandbox.WorkerID, sandbox.Fence.Epoch)
}
