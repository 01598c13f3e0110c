package store

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// workers implements Workers.
type workers struct{ *tx }

const workerColumns = `id, hostname, status, session, providers, capabilities, capacity, heartbeat_us, created_us, updated_us`

func readWorker(row scanner) (w stacyvm.Worker, err error) {
	var providers, capabilities, capacity string
	var heartbeat, created, updated int64
	err = row.Scan(&w.ID, &w.Hostname, &w.Status, &w.Session, &providers, &capabilities, &capacity, &heartbeat, &created, &updated)
	if err != nil {
		return w, err
	}
	w.LastHeartbeat, w.CreatedAt, w.UpdatedAt = fromUS(heartbeat), fromUS(created), fromUS(updated)
	return w, unpack(&providers, &w.Providers, &capabilities, &w.Capabilities, &capacity, &w.Capacity)
}

// Save implements Workers.
func (t workers) Save(ctx context.Context, w stacyvm.Worker) (stacyvm.Worker, error) {
	now, err := t.nowUS(ctx)
	if err != nil {
		return w, err
	}
	var c clause
	values := c.list(string(w.ID), w.Hostname, w.Status, w.Session, packed(w.Providers), packed(w.Capabilities), packed(w.Capacity), now, now, now)
	saved, _, err := one(ctx, t.tx, readWorker, `INSERT INTO workers (`+workerColumns+`) VALUES `+values+`
		ON CONFLICT (id) DO UPDATE SET hostname = excluded.hostname, status = excluded.status, session = excluded.session,
			providers = excluded.providers, capabilities = excluded.capabilities, capacity = excluded.capacity,
			heartbeat_us = excluded.heartbeat_us, updated_us = excluded.updated_us
		RETURNING `+workerColumns, c.args...)
	return saved, err
}

// Mark implements Workers.
func (t workers) Mark(ctx context.Context, w stacyvm.Worker) (stacyvm.Worker, error) {
	now, err := t.nowUS(ctx)
	if err != nil {
		return w, err
	}
	marked, ok, err := one(ctx, t.tx, readWorker, `UPDATE workers SET status = $2, capacity = $3, updated_us = $4 WHERE id = $1
		RETURNING `+workerColumns, string(w.ID), w.Status, packed(w.Capacity), now)
	if err == nil && !ok {
		return w, noWorker(w.ID)
	}
	return marked, err
}

// Get implements Workers.
func (t workers) Get(ctx context.Context, id stacyvm.WorkerID) (stacyvm.Worker, error) {
	w, ok, err := one(ctx, t.tx, readWorker, `SELECT `+workerColumns+` FROM workers WHERE id = $1`, string(id))
	if err == nil && !ok {
		return w, noWorker(id)
	}
	return w, err
}

// Hold implements Workers. Creates read the row without waiting for it.
func (t workers) Hold(ctx context.Context, id stacyvm.WorkerID) (stacyvm.Worker, error) {
	if err := t.hold(ctx, "worker/"+string(id)); err != nil {
		return stacyvm.Worker{}, err
	}
	return t.Get(ctx, id)
}

// List implements Workers.
func (t workers) List(ctx context.Context, page Page) ([]stacyvm.Worker, error) {
	var c clause
	text := `SELECT ` + workerColumns + ` FROM workers` + c.byKey("id", page)
	return all(ctx, t.tx, readWorker, text, c.args...)
}

// Loads implements Workers.
func (t workers) Loads(ctx context.Context) (map[stacyvm.WorkerID]stacyvm.Usage, error) {
	loads := map[stacyvm.WorkerID]stacyvm.Usage{}
	_, err := all(ctx, t.tx, func(row scanner) (u stacyvm.Usage, err error) {
		var worker stacyvm.WorkerID
		err = row.Scan(&worker, &u.Sandboxes, &u.MemoryMB, &u.VCPUs)
		loads[worker] = u
		return u, err
	}, `SELECT worker_id, `+t.usage()+` FROM sandboxes WHERE `+active+` GROUP BY worker_id`)
	return loads, err
}

// Delete implements Workers.
func (t workers) Delete(ctx context.Context, id stacyvm.WorkerID) error {
	changed, err := t.exec(ctx, `DELETE FROM workers WHERE id = $1`, string(id))
	if err == nil && changed == 0 {
		return noWorker(id)
	}
	return err
}

func noWorker(id stacyvm.WorkerID) error {
	return stacyvm.Errorf(stacyvm.CodeNotFound, "worker %.64q does not exist", string(id))
}
