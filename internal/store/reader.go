package store

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// sandboxReader implements SandboxReader outside of a transaction.
type sandboxReader struct {
	backend
	cache *rowCache
}

// Get implements SandboxReader.
func (r sandboxReader) Get(ctx context.Context, id stacyvm.SandboxID) (s stacyvm.Sandbox, err error) {
	if ctx.Err() == nil {
		if s, ok := r.cache.current(id); ok {
			return s, nil
		}
	}
	since := r.cache.began()
	err = r.Read(ctx, func(t *sqldb.Tx) error {
		s, err = sandboxes{tx{t}}.Get(ctx, id)
		return err
	})
	if err == nil && r.cache.alone {
		r.cache.put([]stacyvm.Sandbox{s}, since)
	}
	return s, err
}

// List implements SandboxReader.
func (r sandboxReader) List(ctx context.Context, filter SandboxFilter) (rows []stacyvm.Sandbox, err error) {
	err = r.Read(ctx, func(t *sqldb.Tx) error {
		rows, err = sandboxes{tx{t}}.listCached(ctx, filter, r.cache)
		return err
	})
	return rows, err
}
