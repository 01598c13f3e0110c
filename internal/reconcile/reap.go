package reconcile

import (
	"context"
	"fmt"

	"github.com/stacyvm/stacyvm/internal/lease"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// actor is who the audit names for what this package does by itself.
const actor = "system"

// Reap destroys the worker's sandboxes whose time has passed by the database's clock. One that
// cannot be destroyed becomes expired and is tried again. An expired sandbox cannot be extended
// any more, so none is ended early.
func (m *machine) Reap(ctx context.Context) error {
	expired, err := list(ctx, m.store, store.SandboxFilter{Worker: m.id, Expired: true})
	if err != nil {
		return err
	}
	each(ctx, m.log, expired, m.reap)
	return nil
}

func (m *machine) reap(ctx context.Context, row stacyvm.Sandbox) error {
	ended := m.destroy(ctx, row)
	return m.store.Update(ctx, func(tx store.Tx) error {
		if ended == nil {
			return markDestroyed(ctx, tx, row, stacyvm.Cause{}, "sandbox.expire")
		}
		current, err := tx.Sandboxes().Get(ctx, row.ID)
		if err != nil {
			return err
		}
		if current.State.CanBecome(stacyvm.StateExpired) {
			if _, err := tx.Sandboxes().
				Apply(ctx, row.ID, current.Fence, store.Change{State: stacyvm.StateExpired}); err != nil {
				return err
			}
		}
		m.log.Warn("an expired sandbox cannot be destroyed yet", "sandbox", row.ID, "error", ended)
		return nil
	})
}

// destroy has the worker remove a sandbox's runtime.
func (m *machine) destroy(ctx context.Context, row stacyvm.Sandbox) error {
	ctx, cancel := context.WithTimeout(ctx, destroyWithin)
	defer cancel()
	asked, err := m.reach()
	if err != nil {
		return err
	}
	if err := asked.Destroy(ctx, stacyvm.Ref{ID: row.ID, Fence: row.Fence}); err != nil {
		return fmt.Errorf("destroy the runtime of %s: %w", row.ID, err)
	}
	return nil
}

// markDestroyed makes the row a tombstone, releases its lease and audits it under action, if one
// is given. A row that is a tombstone already stays as it is.
func markDestroyed(ctx context.Context, tx store.Tx, row stacyvm.Sandbox, cause stacyvm.Cause, action string) error {
	ended, err := lease.End(ctx, tx, row, cause)
	if err != nil {
		return fmt.Errorf("mark %s destroyed: %w", row.ID, err)
	}
	if !ended || action == "" {
		return nil
	}
	if err := tx.Events().Append(ctx, []stacyvm.Event{acted(row.ID, row.TenantID, "expire")}); err != nil {
		return err
	}
	return tx.Audit().AppendOperations(ctx, []stacyvm.Operation{operation(row, action)})
}

func operation(row stacyvm.Sandbox, action string) stacyvm.Operation {
	return stacyvm.Operation{
		Actor: actor, Action: action, SandboxID: row.ID, Provider: row.Provider, TenantID: row.TenantID, Status: "ok",
	}
}
