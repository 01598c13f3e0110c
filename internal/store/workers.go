package store

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
	"github.com/stacyvm/stacyvm/internal/store/migrations"
)

// Workers are machines.
type Workers interface {
	// Save registers a worker or its heartbeat; LastHeartbeat becomes the database's now.
	Save(ctx context.Context, worker stacyvm.Worker) (stacyvm.Worker, error)
	// Mark writes a worker's status and capacity, and leaves the time of its heartbeat alone.
	// CodeNotFound.
	Mark(ctx context.Context, worker stacyvm.Worker) (stacyvm.Worker, error)
	// Get finds a worker. CodeNotFound.
	Get(ctx context.Context, id stacyvm.WorkerID) (stacyvm.Worker, error)
	// Hold is Get for a decision about the worker: in an Update it stays as it was read, also when
	// it is not there, until the end among those who hold it. A Save that was not decided so may
	// come between.
	Hold(ctx context.Context, id stacyvm.WorkerID) (stacyvm.Worker, error)
	// List gives all, by id.
	List(ctx context.Context, page Page) ([]stacyvm.Worker, error)
	// Offer is Get for a decision to give a worker one more sandbox: used is what its active ones
	// take. In an Update that holds until the end among those who ask for the same worker: they
	// take turns, so that a limit that all of them keep to is kept exactly. A worker without a
	// limit is not added up, and nobody waits for it. CodeNotFound.
	Offer(ctx context.Context, id stacyvm.WorkerID) (worker stacyvm.Worker, used stacyvm.Usage, err error)
	// Loads adds up what the active sandboxes of each worker take, those alone that were made at a
	// moment or later; a worker without one is not in it. It waits for nobody, not even in an
	// Update: what others are adding meanwhile is not in it.
	Loads(ctx context.Context, since time.Time) (map[stacyvm.WorkerID]stacyvm.Usage, error)
	// Delete forgets a worker. CodeNotFound.
	Delete(ctx context.Context, id stacyvm.WorkerID) error
}

// workers implements Workers.
type workers struct {
	keyed[stacyvm.Worker, stacyvm.WorkerID]
}

var workerTable = table[stacyvm.Worker, stacyvm.WorkerID]{
	name:    "workers",
	entity:  "worker %.64q",
	key:     "id",
	columns: `id, hostname, status, session, providers, capabilities, capacity, problems, heartbeat_us, created_us, updated_us`,
	read:    readWorker,
}

func readWorker(row sqldb.Scanner) (w stacyvm.Worker, err error) {
	var providers, capabilities, capacity, problems string
	var heartbeat, created, updated int64
	err = row.Scan(
		&w.ID,
		&w.Hostname,
		&w.Status,
		&w.Session,
		&providers,
		&capabilities,
		&capacity,
		&problems,
		&heartbeat,
		&created,
		&updated,
	)
	if err != nil {
		return w, err
	}
	w.LastHeartbeat, w.CreatedAt, w.UpdatedAt = fromUS(heartbeat), fromUS(created), fromUS(updated)
	return w, unpack(
		&providers,
		&w.Providers,
		&capabilities,
		&w.Capabilities,
		&capacity,
		&w.Capacity,
		&problems,
		&w.Problems,
	)
}

// Save implements Workers.
func (t workers) Save(ctx context.Context, w stacyvm.Worker) (stacyvm.Worker, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return w, err
	}
	return t.save(
		ctx,
		string(w.ID),
		w.Hostname,
		w.Status,
		w.Session,
		packed(w.Providers),
		packed(w.Capabilities),
		packed(w.Capacity),
		packed(w.Problems),
		now,
		now,
		now,
	)
}

// Mark implements Workers.
func (t workers) Mark(ctx context.Context, w stacyvm.Worker) (stacyvm.Worker, error) {
	now, err := t.NowUS(ctx)
	if err != nil {
		return w, err
	}
	return t.update(ctx, w.ID, `status = $2, capacity = $3, updated_us = $4`, w.Status, packed(w.Capacity), now)
}

// Hold implements Workers. Creates read the row without waiting for it.
func (t workers) Hold(ctx context.Context, id stacyvm.WorkerID) (stacyvm.Worker, error) {
	if err := t.AdvisoryLock(ctx, "worker/"+string(id)); err != nil {
		return stacyvm.Worker{}, err
	}
	return t.Get(ctx, id)
}

// Offer implements Workers. The turn is waited for by the statement that finds the worker, and
// what it has is added up by another, which sees all that the one before has written.
func (t workers) Offer(ctx context.Context, id stacyvm.WorkerID) (w stacyvm.Worker, used stacyvm.Usage, err error) {
	var c clause
	turn := `NULL`
	if t.Writes && t.Dialect.AdvisoryLock != "" {
		c.arg("load of worker/" + string(id)) // for the lock, which knows it as $1
		limited := func(key string) string { return `coalesce(` + t.Dialect.Integer("capacity", key) + `, 0) > 0` }
		turn = `CASE WHEN ` + limited(
			"max_sandboxes",
		) + ` OR ` + limited(
			"memory_mb",
		) + ` OR ` + limited(
			"vcpus",
		) + ` THEN (` + t.Dialect.AdvisoryLock + `) END`
	}
	text := `SELECT ` + workerTable.columns + `, ` + turn + ` FROM workers WHERE id = ` + c.arg(string(id))
	w, ok, err := sqldb.One(
		ctx,
		t.Tx,
		func(row sqldb.Scanner) (stacyvm.Worker, error) { return readWorker(beside{row, new(any)}) },
		text,
		c.args...)
	switch {
	case err != nil:
		return w, used, err
	case !ok:
		return w, used, t.missing(id)
	case !w.Capacity.Limited():
		return w, used, nil
	}
	used, _, err = sqldb.One(ctx, t.Tx, func(row sqldb.Scanner) (u stacyvm.Usage, err error) {
		err = row.Scan(&u.Sandboxes, &u.MemoryMB, &u.VCPUs)
		return u, err
	}, `SELECT `+t.usage()+` FROM sandboxes WHERE `+migrations.ActiveSandbox+` AND worker_id = $1`, string(id))
	return w, used, err
}

// beside reads a row that has one more column.
type beside struct {
	sqldb.Scanner
	more any
}

func (b beside) Scan(into ...any) error { return b.Scanner.Scan(append(into, b.more)...) }

// Loads implements Workers.
func (t workers) Loads(ctx context.Context, since time.Time) (map[stacyvm.WorkerID]stacyvm.Usage, error) {
	var c clause
	c.add(migrations.ActiveSandbox)
	group := `worker_id`
	if !since.IsZero() {
		c.add(`created_us >= %s`, toUS(since))
		// else SQLite's planner reads the workers' index from end to end, because it is in this
		// order
		group = `worker_id || ''`
	}
	loads := map[stacyvm.WorkerID]stacyvm.Usage{}
	_, err := sqldb.All(ctx, t.Tx, func(row sqldb.Scanner) (u stacyvm.Usage, err error) {
		var worker stacyvm.WorkerID
		err = row.Scan(&worker, &u.Sandboxes, &u.MemoryMB, &u.VCPUs)
		loads[worker] = u
		return u, err
	}, `SELECT min(worker_id), `+t.usage()+` FROM sandboxes`+c.where()+` GROUP BY `+group, c.args...)
	return loads, err
}

// usage is the columns of a Usage, summed.
func (t tx) usage() string {
	sum := func(key string) string {
		return `CAST(coalesce(sum(` + t.Dialect.Integer("spec", key) + `), 0) AS BIGINT)`
	}
	return `count(*), ` + sum("memory_mb") + `, ` + sum("vcpus")
}
