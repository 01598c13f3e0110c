package storetest

import (
	"context"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// InsertLeased writes a row with its lease and an audit line.
func InsertLeased(ctx context.Context, tx store.Tx, id stacyvm.SandboxID) error {
	if _, err := tx.Sandboxes().Insert(ctx, stacyvm.Sandbox{ID: id, State: stacyvm.StateCreating, Spec: stacyvm.Spec{TTL: time.Hour}}); err != nil {
		return err
	}
	request := store.LeaseRequest{Resource: string(id), Type: "sandbox", Holder: "w", Session: "s", TTL: time.Hour}
	if _, err := tx.Leases().Acquire(ctx, request); err != nil {
		return err
	}
	return tx.Audit().AppendOperations(ctx, []stacyvm.Operation{{Actor: "child", SandboxID: id}})
}

// AddSandboxes writes a leased row, and with it its Twin: a copy that tears a transaction has one
// of them only.
func AddSandboxes(ctx context.Context, s store.Store) (stacyvm.SandboxID, error) {
	id := stacyvm.NewSandboxID()
	return id, s.Update(ctx, func(tx store.Tx) error {
		if err := InsertLeased(ctx, tx, id); err != nil {
			return err
		}
		return InsertLeased(ctx, tx, Twin(id))
	})
}

// Twin is the id of the second row that AddSandboxes writes.
func Twin(id stacyvm.SandboxID) stacyvm.SandboxID {
	last := "0"
	if strings.HasSuffix(string(id), "0") {
		last = "1"
	}
	return id[:len(id)-1] + stacyvm.SandboxID(last)
}
