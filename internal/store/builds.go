package store

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// Builds are attempts to make an environment's image, with what they made.
type Builds interface {
	// Create writes a new one; its owner is the environment's. CodeNotFound: no such environment; CodeConflict: the id is taken.
	Create(ctx context.Context, build stacyvm.Build) (stacyvm.Build, error)
	// Update writes status, step, log, size, digest, error and time of the end. CodeNotFound; CodeConflict: the build is final.
	Update(ctx context.Context, build stacyvm.Build) (stacyvm.Build, error)
	// Get finds one. CodeNotFound.
	Get(ctx context.Context, id stacyvm.BuildID) (stacyvm.Build, error)
	// List gives builds newest first.
	List(ctx context.Context, filter BuildFilter) ([]stacyvm.Build, error)
	// SaveArtifact writes what a build made for one target, new or not. CodeNotFound: no such build.
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
type builds struct{ tx }

const (
	buildColumns = `id, spec_id, owner_id, status, current_step, log_text, image_size_bytes, digest_local, error, created_us, finished_us, updated_us`
	aBuild       = "build %.64q"

	artifactColumns = `build_id, target, image_ref, digest, status, error, created_us, updated_us`

	// open must stand for every status that is not final.
	open = `status IN ('queued', 'building')`
)

func readBuild(row sqldb.Scanner) (b stacyvm.Build, err error) {
	var created, finished, updated int64
	err = row.Scan(&b.ID, &b.EnvironmentID, &b.OwnerID, &b.Status, &b.Step, &b.Log, &b.ImageBytes, &b.DigestLocal, &b.Error,
		&created, &finished, &updated)
	b.CreatedAt, b.FinishedAt, b.UpdatedAt = fromUS(created), fromUS(finished), fromUS(updated)
	return b, err
}

func readArtifact(row sqldb.Scanner) (a stacyvm.Artifact, err error) {
	var created, updated int64
	err = row.Scan(&a.BuildID, &a.Target, &a.ImageRef, &a.Digest, &a.Status, &a.Error, &created, &updated)
	a.CreatedAt, a.UpdatedAt = fromUS(created), fromUS(updated)
	return a, err
}

// Create implements Builds.
func (t builds) Create(ctx context.Context, b stacyvm.Build) (stacyvm.Build, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return b, err
	}
	environment, err := found(ctx, t.tx, readEnvironment, anEnvironment, b.EnvironmentID,
		`SELECT `+environmentColumns+` FROM environment_specs WHERE id = $1`+t.RowLock())
	if err != nil {
		return b, err
	}
	var c clause
	values := c.list(string(b.ID), string(b.EnvironmentID), environment.OwnerID, string(b.Status), b.Step, b.Log, b.ImageBytes, b.DigestLocal,
		b.Error, now, toUS(b.FinishedAt), now)
	return created(ctx, t.tx, readBuild, aBuild, string(b.ID),
		`INSERT INTO environment_builds (`+buildColumns+`) VALUES `+values+` ON CONFLICT DO NOTHING RETURNING `+buildColumns, c.args...)
}

// Update implements Builds.
func (t builds) Update(ctx context.Context, b stacyvm.Build) (stacyvm.Build, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return b, err
	}
	row, ok, err := sqldb.One(ctx, t.Tx, readBuild, `UPDATE environment_builds SET status = $2, current_step = $3, log_text = $4,
		image_size_bytes = $5, digest_local = $6, error = $7, finished_us = $8, updated_us = $9
		WHERE id = $1 AND `+open+` RETURNING `+buildColumns,
		string(b.ID), string(b.Status), b.Step, b.Log, b.ImageBytes, b.DigestLocal, b.Error, toUS(b.FinishedAt), now)
	if err != nil || ok {
		return row, err
	}
	present, err := t.Get(ctx, b.ID)
	if err != nil {
		return b, err
	}
	return present, stacyvm.Errorf(stacyvm.CodeConflict, aBuild+" is %s", string(b.ID), present.Status)
}

// Get implements Builds.
func (t builds) Get(ctx context.Context, id stacyvm.BuildID) (stacyvm.Build, error) {
	return found(ctx, t.tx, readBuild, aBuild, id, `SELECT `+buildColumns+` FROM environment_builds WHERE id = $1`)
}

// List implements Builds.
func (t builds) List(ctx context.Context, f BuildFilter) ([]stacyvm.Build, error) {
	if f.Owner == "" && f.Environment == "" {
		return nil, nil
	}
	var c clause
	c.equal(`owner_id`, f.Owner)
	c.equal(`spec_id`, string(f.Environment))
	text := `SELECT ` + buildColumns + ` FROM environment_builds` + c.newest(f.Page)
	return sqldb.All(ctx, t.Tx, readBuild, text, c.args...)
}

// SaveArtifact implements Builds.
func (t builds) SaveArtifact(ctx context.Context, a stacyvm.Artifact) (stacyvm.Artifact, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return a, err
	}
	_, err = found(ctx, t.tx, sqldb.ScanInt, aBuild, a.BuildID, `SELECT 1 FROM environment_builds WHERE id = $1`+t.RowLock())
	if err != nil {
		return a, err
	}
	saved, _, err := sqldb.One(ctx, t.Tx, readArtifact, `INSERT INTO environment_artifacts (`+artifactColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
		ON CONFLICT (build_id, target) DO UPDATE SET image_ref = excluded.image_ref, digest = excluded.digest, status = excluded.status,
			error = excluded.error, updated_us = excluded.updated_us
		RETURNING `+artifactColumns, string(a.BuildID), a.Target, a.ImageRef, a.Digest, a.Status, a.Error, now)
	return saved, err
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
	return sqldb.All(ctx, t.Tx, readArtifact, `SELECT `+artifactColumns+` FROM environment_artifacts
		WHERE build_id IN (SELECT key FROM `+t.Dialect.Members("$1")+`) ORDER BY build_id, target`, packed(wanted))
}
