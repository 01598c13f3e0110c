package store

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// Environments are specs that images are built from.
type Environments interface {
	// Create writes a new one. CodeConflict: the id is taken, or the owner has one of this name.
	Create(ctx context.Context, environment stacyvm.Environment) (stacyvm.Environment, error)
	// Update replaces all but the id, the owner and the time of creation. CodeNotFound;
	// CodeConflict: another of the owner's has this name.
	Update(ctx context.Context, environment stacyvm.Environment) (stacyvm.Environment, error)
	// Get finds one. CodeNotFound.
	Get(ctx context.Context, id stacyvm.EnvironmentID) (stacyvm.Environment, error)
	// List gives an owner's, newest first.
	List(ctx context.Context, owner string, page Page) ([]stacyvm.Environment, error)
	// Delete forgets one with its builds and artifacts. CodeNotFound.
	Delete(ctx context.Context, id stacyvm.EnvironmentID) error
}

// environments implements Environments.
type environments struct {
	keyed[stacyvm.Environment, stacyvm.EnvironmentID]
}

var environmentTable = table[stacyvm.Environment, stacyvm.EnvironmentID]{
	name: "environment_specs", entity: "environment %.64q", key: "id",
	columns: `id, owner_id, name, base_image, python_packages, apt_packages, python_version, created_us, updated_us`,
	read:    readEnvironment,
}

func readEnvironment(row sqldb.Scanner) (e stacyvm.Environment, err error) {
	var python, apt string
	var created, updated int64
	err = row.Scan(&e.ID, &e.OwnerID, &e.Name, &e.BaseImage, &python, &apt, &e.PythonVersion, &created, &updated)
	if err != nil {
		return e, err
	}
	e.CreatedAt, e.UpdatedAt = fromUS(created), fromUS(updated)
	return e, unpack(&python, &e.PythonPackages, &apt, &e.AptPackages)
}

// Create implements Environments.
func (t environments) Create(ctx context.Context, e stacyvm.Environment) (stacyvm.Environment, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return e, err
	}
	return t.insert(
		ctx,
		e.Name,
		string(e.ID),
		e.OwnerID,
		e.Name,
		e.BaseImage,
		packed(e.PythonPackages),
		packed(e.AptPackages),
		e.PythonVersion,
		now,
		now,
	)
}

// Update implements Environments. A name that is taken is looked for first: a violated constraint
// would end the transaction.
func (t environments) Update(ctx context.Context, e stacyvm.Environment) (stacyvm.Environment, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return e, err
	}
	present, err := t.Get(ctx, e.ID)
	if err != nil {
		return e, err
	}
	_, taken, err := sqldb.One(
		ctx,
		t.Tx,
		sqldb.ScanInt,
		`SELECT 1 FROM environment_specs WHERE owner_id = $1 AND name = $2 AND id <> $3`,
		present.OwnerID,
		e.Name,
		string(e.ID),
	)
	if err != nil {
		return e, err
	}
	if taken {
		return e, stacyvm.Errorf(stacyvm.CodeConflict, environmentTable.entity+" exists already", e.Name)
	}
	return t.update(
		ctx,
		e.ID,
		`name = $2, base_image = $3, python_packages = $4, apt_packages = $5, python_version = $6, updated_us = $7`,
		e.Name,
		e.BaseImage,
		packed(e.PythonPackages),
		packed(e.AptPackages),
		e.PythonVersion,
		now,
	)
}

// List implements Environments.
func (t environments) List(ctx context.Context, owner string, page Page) ([]stacyvm.Environment, error) {
	var c clause
	c.add(`owner_id = %s`, owner)
	return t.all(ctx, &c, c.newest(page))
}
