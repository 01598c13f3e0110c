package reconcile

import (
	"context"
	"fmt"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// Reasons that clients see.
const (
	reasonLost         = "lost"
	reasonNoAnswer     = "no_answer"
	reasonDied         = "runtime_died"
	reasonCreateFailed = "create_failed"
)

// recoveredTTL is what a recovered sandbox gets whose own expiry is not known or has passed: time for its owner to see it.
const recoveredTTL = 5 * time.Minute

// sighting is an action that waits for its second time.
type sighting struct {
	id     stacyvm.SandboxID
	action action
}

// task is one decision to carry out.
type task struct {
	view
	id     stacyvm.SandboxID
	action action
}

// Recover compares the worker's rows with a complete inventory and acts by the recovery table. The first pass over a
// database that has a new incarnation, as after a restore from a backup, tells what it finds and does nothing.
func (r *Reconciler) Recover(ctx context.Context) error {
	until, err := r.settle(ctx)
	if err != nil {
		return err
	}
	views, err := r.compare(ctx)
	if err != nil {
		return err
	}
	if !until.IsZero() && !until.Equal(r.settling) {
		r.settling, r.sighted = until, map[sighting]bool{}
		r.report(views)
		return nil
	}
	sighted := map[sighting]bool{}
	var tasks []task
	for id, v := range views {
		t := task{view: v, id: id, action: decide(v)}
		seen := sighting{id, t.action}
		if twice[t.action] && !r.sighted[seen] {
			sighted[seen] = true
			continue
		}
		if t.action != leave {
			tasks = append(tasks, t)
		}
	}
	r.sighted = sighted
	for id := range r.interrupted {
		if v, ok := views[id]; !ok || v.row == nil || v.row.State != stacyvm.StateCreating {
			delete(r.interrupted, id)
		}
	}
	each(ctx, r, tasks, r.carryOut)
	return nil
}

// settle asks whether the database was put back lately, and until when it settles; zero: it has.
func (r *Reconciler) settle(ctx context.Context) (time.Time, error) {
	return store.Settle(ctx, r.store, r.self, r.session)
}

// report tells what a pass would do.
func (r *Reconciler) report(views map[stacyvm.SandboxID]view) {
	r.log.Warn("the database has a new incarnation: this pass only reports", "sandboxes", len(views), "settled_at", r.settling)
	for id, v := range views {
		if action := decide(v); action != leave {
			r.log.Info("recovery, reported only", "sandbox", id, "action", string(action))
		}
	}
}

// compare reads the rows first and the runtimes after them, so that a row that says running had its runtime before the
// inventory was taken. A runtime without a row in that list is looked up once more: its row may be new, or a tombstone.
func (r *Reconciler) compare(ctx context.Context) (map[stacyvm.SandboxID]view, error) {
	cluster, err := r.store.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := r.rows(ctx, store.SandboxFilter{Worker: r.self})
	if err != nil {
		return nil, err
	}
	inventory, err := r.worker.Inventory(ctx)
	if err != nil {
		return nil, err
	}
	views := make(map[stacyvm.SandboxID]view, len(rows))
	for i := range rows {
		views[rows[i].ID] = view{row: &rows[i], interrupted: r.interrupted[rows[i].ID]}
	}
	err = r.store.View(ctx, func(tx store.Tx) error {
		now, err := tx.Now(ctx)
		if err != nil {
			return err
		}
		for i := range inventory.Runtimes {
			runtime := &inventory.Runtimes[i]
			v, known := views[runtime.ID]
			if !known {
				row, err := tx.Sandboxes().Get(ctx, runtime.ID)
				if err == nil {
					v.row = &row
				} else if stacyvm.CodeOf(err) != stacyvm.CodeNotFound {
					return err
				}
			}
			v.runtime = runtime
			views[runtime.ID] = v
		}
		for id, v := range views {
			v.now, v.self, v.cluster = now, r.self, cluster
			views[id] = v
		}
		return nil
	})
	return views, err
}

// carryOut does what was decided. Everything it writes is fenced: what changed meanwhile makes it fail, and the next pass
// decides anew.
func (r *Reconciler) carryOut(ctx context.Context, t task) error {
	r.log.Info("recovery", "sandbox", t.id, "action", string(t.action))
	if t.action == warn {
		r.log.Warn("a runtime is left alone", "sandbox", t.id, "cluster", t.runtime.Cluster, "fence", t.runtime.Fence)
		return nil
	}
	if err := r.act(ctx, t); err != nil {
		return err
	}
	tenant := ""
	switch {
	case t.row != nil:
		tenant = t.row.TenantID
	case t.runtime != nil:
		tenant = t.runtime.Request.TenantID
	}
	return r.store.Update(ctx, func(tx store.Tx) error {
		return tx.Events().Append(ctx, []stacyvm.Notice{acted(t.id, tenant, string(t.action))})
	})
}

// acted tells of something that was done without being asked for. The states that it led to tell of themselves.
func acted(id stacyvm.SandboxID, tenant, action string) stacyvm.Notice {
	return stacyvm.Notice{Kind: stacyvm.KindReconcile, SandboxID: id, TenantID: tenant, Data: map[string]any{"action": action}}
}

func (r *Reconciler) act(ctx context.Context, t task) error {
	switch t.action {
	case adopt:
		return r.confirm(ctx, *t.row, t.runtime.Created)
	case resend:
		return r.resend(ctx, t)
	case fail:
		return r.fail(ctx, *t.row)
	case lose:
		return r.change(ctx, *t.row, stacyvm.StateUnhealthy, reasonLost)
	case mute:
		return r.change(ctx, *t.row, stacyvm.StateUnhealthy, reasonNoAnswer)
	case die:
		return r.change(ctx, *t.row, stacyvm.StateError, reasonDied)
	case restore:
		return r.restore(ctx, *t.row, t.runtime.Created)
	case finish:
		return r.finish(ctx, *t.row, "")
	case clean:
		return r.destroy(ctx, *t.row)
	case kill:
		return r.kill(ctx, t)
	case readmit:
		return r.insert(ctx, t)
	case warn, leave: // nothing to do
	}
	return nil
}

func (r *Reconciler) change(ctx context.Context, row stacyvm.Sandbox, state stacyvm.State, reason string) error {
	return r.store.Update(ctx, func(tx store.Tx) error {
		_, err := tx.Sandboxes().Apply(ctx, row.ID, row.Fence, store.Change{State: state, Reason: &reason})
		return err
	})
}

func (r *Reconciler) confirm(ctx context.Context, row stacyvm.Sandbox, created worker.Created) error {
	return r.store.Update(ctx, func(tx store.Tx) error { return running(ctx, tx, row.ID, row.Fence, created) })
}

func running(ctx context.Context, tx store.Tx, id stacyvm.SandboxID, fence stacyvm.Fence, created worker.Created) error {
	_, err := tx.Sandboxes().Apply(ctx, id, fence, store.Change{
		State: stacyvm.StateRunning, Reason: new(""), RuntimeID: created.RuntimeID, Unenforced: created.Unenforced,
	})
	return err
}

// resend sends an interrupted create again; the worker finds what the first one made.
func (r *Reconciler) resend(ctx context.Context, t task) error {
	row := *t.row
	ctx, cancel := context.WithTimeout(ctx, stacyvm.CreateWithin)
	defer cancel()
	created, err := r.worker.Create(ctx, stacyvm.Ref{ID: row.ID, Fence: row.Fence}, worker.CreateRequest{
		Cluster: t.cluster.ID, Spec: row.Spec, OwnerID: row.OwnerID, TenantID: row.TenantID, ExpiresAt: row.ExpiresAt,
	})
	if err != nil {
		return fmt.Errorf("create %s again: %w", row.ID, err)
	}
	return r.confirm(ctx, row, created)
}

// fail ends a create that nobody finishes. When leftovers cannot be removed the row stays, in error, and they are
// cleaned later.
func (r *Reconciler) fail(ctx context.Context, row stacyvm.Sandbox) error {
	err := r.finish(ctx, row, reasonCreateFailed)
	if err == nil {
		return nil
	}
	if failed := r.change(ctx, row, stacyvm.StateError, reasonCreateFailed); failed != nil {
		return failed
	}
	return err
}

// finish destroys the runtime and buries the row.
func (r *Reconciler) finish(ctx context.Context, row stacyvm.Sandbox, reason string) error {
	if err := r.destroy(ctx, row); err != nil {
		return err
	}
	return r.store.Update(ctx, func(tx store.Tx) error { return bury(ctx, tx, row, reason, "") })
}

// restore gives a runtime back to its sandbox, with a new epoch: whoever acted for it before is fenced.
func (r *Reconciler) restore(ctx context.Context, row stacyvm.Sandbox, created worker.Created) error {
	return r.store.Update(ctx, func(tx store.Tx) error {
		lease, err := r.acquire(ctx, tx, row.ID)
		if err != nil {
			return err
		}
		return running(ctx, tx, row.ID, stacyvm.Fence{Incarnation: row.Fence.Incarnation, Epoch: lease.Epoch}, created)
	})
}

// kill removes a runtime that has no owner here. Its row is read once more: nothing that came into being since the
// comparison is touched.
func (r *Reconciler) kill(ctx context.Context, t task) error {
	fence := t.runtime.Fence
	err := r.store.View(ctx, func(tx store.Tx) error {
		row, err := tx.Sandboxes().Get(ctx, t.id)
		if stacyvm.CodeOf(err) == stacyvm.CodeNotFound {
			return nil
		}
		if err == nil && row.State.Active() && row.WorkerID == r.self {
			return stacyvm.Errorf(stacyvm.CodeConflict, "%s has an owner again", t.id)
		}
		if row.Fence.Compare(fence) > 0 {
			fence = row.Fence
		}
		return err
	})
	if err != nil {
		return err
	}
	return r.destroy(ctx, stacyvm.Sandbox{ID: t.id, Fence: fence})
}

// insert writes the row of a sandbox that the store does not know any more.
func (r *Reconciler) insert(ctx context.Context, t task) error {
	request := t.runtime.Request
	spec := request.Spec
	if spec.TTL = request.ExpiresAt.Sub(t.now); spec.TTL <= 0 {
		spec.TTL = recoveredTTL
	}
	row := stacyvm.Sandbox{
		ID: t.id, State: stacyvm.StateRunning, Desired: stacyvm.DesiredRunning, Provider: spec.Provider, Image: spec.Image,
		Spec: spec, OwnerID: request.OwnerID, TenantID: request.TenantID, WorkerID: r.self, Recovered: true,
		Fence: stacyvm.Fence{Incarnation: t.cluster.Incarnation}, RuntimeID: t.runtime.Created.RuntimeID, Unenforced: t.runtime.Created.Unenforced,
	}
	switch {
	case t.runtime.Healthy:
	case t.runtime.Reason == "dead":
		row.State, row.Reason = stacyvm.StateError, reasonDied
	default:
		row.State, row.Reason = stacyvm.StateUnhealthy, reasonNoAnswer
	}
	return r.store.Update(ctx, func(tx store.Tx) error {
		if _, err := tx.Sandboxes().Insert(ctx, row); err != nil {
			return err
		}
		if _, err := r.acquire(ctx, tx, t.id); err != nil {
			return err
		}
		return tx.Audit().AppendOperations(ctx, []stacyvm.Operation{operation(row, "sandbox.recover")})
	})
}
