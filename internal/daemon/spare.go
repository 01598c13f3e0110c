package daemon

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/space"
	"github.com/stacyvm/stacyvm/internal/store"
)

// sparedStore is a store whose writes use the reserve when the disk is full. Those that take much
// room do not come to it then.
type sparedStore struct {
	store.Store
	guard *space.Guard
}

// Update implements store.Store.
func (s sparedStore) Update(ctx context.Context, write func(store.Tx) error) error {
	return s.guard.Spare(func() error { return s.Store.Update(ctx, write) })
}
