package store

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// Builds are attempts to make an environment's image, with what they made.
type Builds interface {
	// Create writes a new one; its owner is the environment's. CodeNotFound: no such environment;
	// CodeConflict: the id is taken.
	Create(ctx context.Context, build stacyvm.Build) (stacyvm.Build, error)
	// Update writes status, step, log, size, digest, error and time of the end. CodeNotFound;
	// CodeConflict: the build is final.
	Update(ctx context.Context, build stacyvm.Build) (stacyvm.Build, error)
	// Get finds one. CodeNotFound.
	Get(ctx context.Context, id stacyvm.BuildID) (stacyvm.Build, error)
	// List gives builds newest first.
	List(ctx context.Context, filter BuildFilter) ([]stacyvm.Build, error)
	// SaveArtifact writes what a build made for one target, new or not. CodeNotFound: no such
	// build.
	SaveArtifact(ctx context.Context, artifact stacyvm.Artifact) (stacyvm.Artifact, error)
	// Artifacts gives the artifacts of all these builds, by build and target, in one statement.
	Artifacts(ctx context.Context, builds ...stacyvm.BuildID) ([]stacyvm.Artifact, error)
}

// BuildFilter selects builds of one owner or one environment; the zero value selects none.
type BuildFilter struct {
	Owner       string
	Environment stacyvm.EnvironmentID
	Page
}

// builds implements Builds.
type builds struct {
	keyed[stacyvm.Build, stacyvm.BuildID]
}

// unfinishedBuild must stand for every status that is not final.
const unfinishedBuild = `status IN ('queued', 'building')`

var buildTable = table[stacyvm.Build, stacyvm.BuildID]{
	name:    "environment_builds",
	entity:  "build %.64q",
	key:     "id",
	columns: `id, spec_id, owner_id, status, current_step, log_text, image_size_bytes, digest_local, error, created_us, finished_us, updated_us`,
	read: func(row sqldb.Scanner) (b stacyvm.Build, err error) {
		var created, finished, updated int64
		err = row.Scan(
			&b.ID,
			&b.EnvironmentID,
			&b.OwnerID,
			&b.Status,
			&b.Step,
			&b.Log,
			&b.ImageBytes,
			&b.DigestLocal,
			&b.Error,
			&created,
			&finished,
			&updated,
		)
		b.CreatedAt, b.FinishedAt, b.UpdatedAt = fromUS(created), fromUS(finished), fromUS(updated)
		return b, err
	},
}

var artifactTable = table[stacyvm.Artifact, string]{
	name: "environment_artifacts", key: "build_id, target",
	columns: `build_id, target, image_ref, digest, status, error, created_us, updated_us`,
	read: func(row sqldb.Scanner) (a stacyvm.Artifact, err error) {
		var created, updated int64
		err = row.Scan(&a.BuildID, &a.Target, &a.ImageRef, &a.Digest, &a.Status, &a.Error, &created, &updated)
		a.CreatedAt, a.UpdatedAt = fromUS(created), fromUS(updated)
		return a, err
	},
}

// Create implements Builds.
func (t builds) Create(ctx context.Context, b stacyvm.Build) (stacyvm.Build, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return b, err
	}
	environment, err := environmentTable.in(t.tx).locked(ctx, b.EnvironmentID)
	if err != nil {
		return b, err
	}
	return t.insert(
		ctx,
		string(b.ID),
		string(b.ID),
		string(b.EnvironmentID),
		environment.OwnerID,
		string(b.Status),
		b.Step,
		b.Log,
		b.ImageBytes,
		b.DigestLocal,
		b.Error,
		now,
		toUS(b.FinishedAt),
		now,
	)
}

// Update implements Builds.
func (t builds) Update(ctx context.Context, b stacyvm.Build) (stacyvm.Build, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return b, err
	}
	row, ok, err := sqldb.One(
		ctx,
		t.Tx,
		buildTable.read,
		`UPDATE environment_builds SET status = $2, current_step = $3, log_text = $4,
		image_size_bytes = $5, digest_local = $6, error = $7, finished_us = $8, updated_us = $9
		WHERE id = $1 AND `+unfinishedBuild+` RETURNING `+buildTable.columns,
		string(b.ID),
		string(b.Status),
		b.Step,
		b.Log,
		b.ImageBytes,
		b.DigestLocal,
		b.Error,
		toUS(b.FinishedAt),
		now,
	)
	if err != nil || ok {
		return row, err
	}
	present, err := t.Get(ctx, b.ID)
	if err != nil {
		return b, err
	}
	return present, stacyvm.Errorf(stacyvm.CodeConflict, buildTable.entity+" is %s", string(b.ID), present.Status)
}

// List implements Builds.
func (t builds) List(ctx context.Context, f BuildFilter) ([]stacyvm.Build, error) {
	if f.Owner == "" && f.Environment == "" {
		return nil, nil
	}
	var c clause
	c.equal(`owner_id`, f.Owner)
	c.equal(`spec_id`, string(f.Environment))
	return t.all(ctx, &c, c.newest(f.Page))
}

// SaveArtifact implements Builds.
func (t builds) SaveArtifact(ctx context.Context, a stacyvm.Artifact) (stacyvm.Artifact, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return a, err
	}
	if err := t.lock(ctx, a.BuildID); err != nil {
		return a, err
	}
	return artifactTable.in(t.tx).
		save(ctx, string(a.BuildID), a.Target, a.ImageRef, a.Digest, a.Status, a.Error, now, now)
}

// Artifacts implements Builds.
func (t builds) Artifacts(ctx context.Context, of ...stacyvm.BuildID) ([]stacyvm.Artifact, error) {
	if len(of) == 0 {
		return nil, nil
	}
	wanted := make(map[stacyvm.BuildID]int, len(of))
	for _, id := range of {
		wanted[id] = 1
	}
	var c clause
	members := t.Dialect.Members(c.arg(packed(wanted)))
	return artifactTable.in(t.tx).
		all(ctx, &c, ` WHERE build_id IN (SELECT key FROM `+members+`) ORDER BY build_id, target`)
}
