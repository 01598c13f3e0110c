package store

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// sandboxReader implements SandboxReader outside of a transaction.
type sandboxReader struct{ backend }

// Get implements SandboxReader.
func (r sandboxReader) Get(ctx context.Context, id stacyvm.SandboxID) (s stacyvm.Sandbox, err error) {
	err = r.Read(ctx, func(t *sqldb.Tx) error {
		s, err = sandboxes{tx{t}}.Get(ctx, id)
		return err
	})
	return s, err
}

// List implements SandboxReader.
func (r sandboxReader) List(ctx context.Context, filter SandboxFilter) (rows []stacyvm.Sandbox, err error) {
	err = r.Read(ctx, func(t *sqldb.Tx) error {
		rows, err = sandboxes{tx{t}}.List(ctx, filter)
		return err
	})
	return rows, err
}
