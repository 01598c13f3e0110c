package store

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// ProviderConfigs are what operators set for engines at run time.
type ProviderConfigs interface {
	// Save writes an engine's settings, new or not.
	Save(ctx context.Context, config stacyvm.ProviderConfig) (stacyvm.ProviderConfig, error)
	// Get finds an engine's settings. CodeNotFound.
	Get(ctx context.Context, name string) (stacyvm.ProviderConfig, error)
	// List gives all, by name.
	List(ctx context.Context, page Page) ([]stacyvm.ProviderConfig, error)
	// Delete forgets them. CodeNotFound.
	Delete(ctx context.Context, name string) error
}

// providerConfigs implements ProviderConfigs.
type providerConfigs struct{ tx }

const providerColumns = `name, config, enabled, updated_us`

func readProvider(row sqldb.Scanner) (p stacyvm.ProviderConfig, err error) {
	var config string
	var updated int64
	err = row.Scan(&p.Name, &config, &p.Enabled, &updated)
	p.Config, p.UpdatedAt = opaque(config), fromUS(updated)
	return p, err
}

// Save implements ProviderConfigs.
func (t providerConfigs) Save(ctx context.Context, p stacyvm.ProviderConfig) (stacyvm.ProviderConfig, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return p, err
	}
	saved, _, err := sqldb.One(ctx, t.Tx, readProvider, `INSERT INTO provider_configs (`+providerColumns+`) VALUES ($1, $2, $3, $4)
		ON CONFLICT (name) DO UPDATE SET config = excluded.config, enabled = excluded.enabled, updated_us = excluded.updated_us
		RETURNING `+providerColumns, p.Name, string(p.Config), p.Enabled, now)
	return saved, err
}

// Get implements ProviderConfigs.
func (t providerConfigs) Get(ctx context.Context, name string) (stacyvm.ProviderConfig, error) {
	return found(ctx, t.tx, readProvider, "the configuration of provider %.64q", name, `SELECT `+providerColumns+` FROM provider_configs WHERE name = $1`)
}

// List implements ProviderConfigs.
func (t providerConfigs) List(ctx context.Context, page Page) ([]stacyvm.ProviderConfig, error) {
	var c clause
	text := `SELECT ` + providerColumns + ` FROM provider_configs` + c.byKey("name", page)
	return sqldb.All(ctx, t.Tx, readProvider, text, c.args...)
}

// Delete implements ProviderConfigs.
func (t providerConfigs) Delete(ctx context.Context, name string) error {
	return t.remove(ctx, "the configuration of provider %.64q", name, `DELETE FROM provider_configs WHERE name = $1`)
}
