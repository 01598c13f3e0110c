package store

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// Connections are owners' accounts at registries.
type Connections interface {
	// Save writes an account, new or not: owner, provider and username name it, and a known one keeps its id. A default one
	// replaces the owner's former default at this provider. CodeConflict: the id is another account's.
	Save(ctx context.Context, connection stacyvm.Connection) (stacyvm.Connection, error)
	// Get finds one. CodeNotFound.
	Get(ctx context.Context, id stacyvm.ConnectionID) (stacyvm.Connection, error)
	// List gives an owner's, newest first.
	List(ctx context.Context, owner string, page Page) ([]stacyvm.Connection, error)
	// Delete forgets one. CodeNotFound.
	Delete(ctx context.Context, id stacyvm.ConnectionID) error
}

// connections implements Connections.
type connections struct{ tx }

const (
	connectionColumns = `id, owner_id, provider, username, secret_ref, is_default, created_us, updated_us`
	aConnection       = "registry connection %.64q"
)

func readConnection(row sqldb.Scanner) (r stacyvm.Connection, err error) {
	var created, updated int64
	err = row.Scan(&r.ID, &r.OwnerID, &r.Provider, &r.Username, &r.SecretRef, &r.Default, &created, &updated)
	r.CreatedAt, r.UpdatedAt = fromUS(created), fromUS(updated)
	return r, err
}

// Save implements Connections.
func (t connections) Save(ctx context.Context, r stacyvm.Connection) (stacyvm.Connection, error) {
	saved, err := t.put(ctx, r)
	if err != nil || !saved.Default {
		return saved, err
	}
	_, err = t.Exec(ctx, `UPDATE registry_connections SET is_default = FALSE WHERE owner_id = $1 AND provider = $2 AND id <> $3 AND is_default`,
		saved.OwnerID, saved.Provider, string(saved.ID))
	return saved, err
}

// put tries the insert first: a conflict on either key changes nothing and does not end the transaction.
func (t connections) put(ctx context.Context, r stacyvm.Connection) (stacyvm.Connection, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return r, err
	}
	row, ok, err := sqldb.One(ctx, t.Tx, readConnection, `INSERT INTO registry_connections (`+connectionColumns+`)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $7) ON CONFLICT DO NOTHING RETURNING `+connectionColumns,
		string(r.ID), r.OwnerID, r.Provider, r.Username, r.SecretRef, r.Default, now)
	if err != nil || ok {
		return row, err
	}
	row, ok, err = sqldb.One(ctx, t.Tx, readConnection, `UPDATE registry_connections SET secret_ref = $4, is_default = $5, updated_us = $6
		WHERE owner_id = $1 AND provider = $2 AND username = $3 RETURNING `+connectionColumns,
		r.OwnerID, r.Provider, r.Username, r.SecretRef, r.Default, now)
	if err == nil && !ok {
		err = stacyvm.Errorf(stacyvm.CodeConflict, aConnection+" is another account", string(r.ID))
	}
	return row, err
}

// Get implements Connections.
func (t connections) Get(ctx context.Context, id stacyvm.ConnectionID) (stacyvm.Connection, error) {
	return found(ctx, t.tx, readConnection, aConnection, id, `SELECT `+connectionColumns+` FROM registry_connections WHERE id = $1`)
}

// List implements Connections.
func (t connections) List(ctx context.Context, owner string, page Page) ([]stacyvm.Connection, error) {
	var c clause
	c.add(`owner_id = %s`, owner)
	text := `SELECT ` + connectionColumns + ` FROM registry_connections` + c.newest(page)
	return sqldb.All(ctx, t.Tx, readConnection, text, c.args...)
}

// Delete implements Connections.
func (t connections) Delete(ctx context.Context, id stacyvm.ConnectionID) error {
	return t.remove(ctx, aConnection, string(id), `DELETE FROM registry_connections WHERE id = $1`)
}
