package store

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// Connections are owners' accounts at registries.
type Connections interface {
	// Save writes an account, new or not: owner, provider and username name it, and a known one
	// keeps its id. A default one replaces the owner's former default at this provider.
	// CodeConflict: the id is another account's.
	Save(ctx context.Context, connection stacyvm.Connection) (stacyvm.Connection, error)
	// Get finds one. CodeNotFound.
	Get(ctx context.Context, id stacyvm.ConnectionID) (stacyvm.Connection, error)
	// List gives an owner's, newest first.
	List(ctx context.Context, owner string, page Page) ([]stacyvm.Connection, error)
	// Delete forgets one. CodeNotFound.
	Delete(ctx context.Context, id stacyvm.ConnectionID) error
}

// connections implements Connections.
type connections struct {
	keyed[stacyvm.Connection, stacyvm.ConnectionID]
}

var connectionTable = table[stacyvm.Connection, stacyvm.ConnectionID]{
	name: "registry_connections", entity: "registry connection %.64q", key: "id",
	columns: `id, owner_id, provider, username, secret_ref, is_default, created_us, updated_us`,
	read: func(row sqldb.Scanner) (r stacyvm.Connection, err error) {
		var created, updated int64
		err = row.Scan(&r.ID, &r.OwnerID, &r.Provider, &r.Username, &r.SecretRef, &r.Default, &created, &updated)
		r.CreatedAt, r.UpdatedAt = fromUS(created), fromUS(updated)
		return r, err
	},
}

// Save implements Connections.
func (t connections) Save(ctx context.Context, r stacyvm.Connection) (stacyvm.Connection, error) {
	saved, err := t.put(ctx, r)
	if err != nil || !saved.Default {
		return saved, err
	}
	_, err = t.Exec(
		ctx,
		`UPDATE registry_connections SET is_default = FALSE WHERE owner_id = $1 AND provider = $2 AND id <> $3 AND is_default`,
		saved.OwnerID,
		saved.Provider,
		string(saved.ID),
	)
	return saved, err
}

// put tries the insert first: either key may be taken.
func (t connections) put(ctx context.Context, r stacyvm.Connection) (stacyvm.Connection, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return r, err
	}
	row, ok, err := t.tryInsert(ctx, string(r.ID), r.OwnerID, r.Provider, r.Username, r.SecretRef, r.Default, now, now)
	if err != nil || ok {
		return row, err
	}
	row, ok, err = sqldb.One(
		ctx,
		t.Tx,
		connectionTable.read,
		`UPDATE registry_connections SET secret_ref = $4, is_default = $5, updated_us = $6
		WHERE owner_id = $1 AND provider = $2 AND username = $3 RETURNING `+connectionTable.columns,
		r.OwnerID,
		r.Provider,
		r.Username,
		r.SecretRef,
		r.Default,
		now,
	)
	if err == nil && !ok {
		err = stacyvm.Errorf(stacyvm.CodeConflict, connectionTable.entity+" is another account", string(r.ID))
	}
	return row, err
}

// List implements Connections.
func (t connections) List(ctx context.Context, owner string, page Page) ([]stacyvm.Connection, error) {
	var c clause
	c.add(`owner_id = %s`, owner)
	return t.all(ctx, &c, c.newest(page))
}
