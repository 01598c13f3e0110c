package reconcile

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// recoveredTTL is what a recovered sandbox gets whose own expiry is not known or has passed: time
// for its owner to see it.
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

// Recover compares the worker's rows with a complete inventory and acts by the recovery table. The
// first pass over a database that has a new incarnation, as after a restore from a backup, tells
// what it finds and does nothing.
func (m *machine) Recover(ctx context.Context) error {
	until, err := m.settlesAt(ctx)
	if err != nil {
		return err
	}
	views, err := m.compare(ctx)
	if err != nil {
		return err
	}
	if !until.IsZero() && !until.Equal(m.settling) {
		m.settling, m.sighted = until, map[sighting]bool{}
		m.report(views)
		return nil
	}
	sighted := map[sighting]bool{}
	var tasks, drifted []task
	for id, v := range views {
		t := task{view: v, id: id, action: decide(v)}
		seen := sighting{id, t.action}
		if needsConfirmation[t.action] && !m.sighted[seen] {
			sighted[seen] = true
			continue
		}
		switch {
		case t.action != none:
			tasks = append(tasks, t)
		case v.drifted():
			drifted = append(drifted, t)
		}
	}
	m.sighted = sighted
	for id := range m.interrupted {
		if v, ok := views[id]; !ok || v.row == nil || v.row.State != stacyvm.StateCreating {
			delete(m.interrupted, id)
		}
	}
	each(ctx, m.log, tasks, m.carryOut)
	each(ctx, m.log, drifted, m.sendExpiry)
	return nil
}

// sendExpiry tells the worker when a sandbox expires. A worker that cannot be told ends nothing
// by itself.
func (m *machine) sendExpiry(ctx context.Context, t task) error {
	ctx, cancel := context.WithTimeout(ctx, destroyWithin)
	defer cancel()
	asked, err := m.reach()
	if err == nil {
		err = worker.Expire(ctx, asked, stacyvm.Ref{ID: t.id, Fence: t.row.Fence}, t.row.ExpiresAt)
	}
	if err != nil && stacyvm.CodeOf(err) != stacyvm.CodeUnsupported {
		return fmt.Errorf("send the expiry of %s: %w", t.id, err)
	}
	return nil
}

// report tells what a pass would do.
func (m *machine) report(views map[stacyvm.SandboxID]view) {
	m.log.Warn(
		"the database has a new incarnation: this pass only reports",
		"sandboxes",
		len(views),
		"settled_at",
		m.settling,
	)
	for id, v := range views {
		if action := decide(v); action != none {
			m.log.Info("recovery, reported only", "sandbox", id, "action", string(action))
		}
	}
}

// compare reads the rows first and the runtimes after them, so that a row that says running had
// its runtime before the inventory was taken. A runtime without a row in that list is looked up
// once more: its row may be new, or a tombstone.
func (m *machine) compare(ctx context.Context) (map[stacyvm.SandboxID]view, error) {
	cluster, err := m.store.Cluster(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := list(ctx, m.store, store.SandboxFilter{Worker: m.id})
	if err != nil {
		return nil, err
	}
	inventory, err := m.inventory(ctx)
	if err != nil {
		return nil, err
	}
	views := make(map[stacyvm.SandboxID]view, len(rows))
	for i := range rows {
		views[rows[i].ID] = view{row: &rows[i], interrupted: m.interrupted[rows[i].ID]}
	}
	err = m.store.View(ctx, func(tx store.Tx) error {
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
			v.now, v.self, v.cluster = now, m.id, cluster
			views[id] = v
		}
		return nil
	})
	return views, err
}

// unreachable is the error of a worker that could not be asked what it has.
type unreachable struct{ error }

func (u unreachable) Unwrap() error { return u.error }

func (m *machine) inventory(ctx context.Context) (worker.Inventory, error) {
	ctx, cancel := context.WithTimeout(ctx, inventoryWithin)
	defer cancel()
	asked, err := m.reach()
	if err != nil {
		return worker.Inventory{}, unreachable{err}
	}
	inventory, err := asked.Inventory(ctx)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return inventory, unreachable{err}
	case stacyvm.CodeOf(err) == stacyvm.CodeInternal: // it answers, and has a trouble of its own
		return inventory, err
	case err != nil:
		return inventory, unreachable{err}
	case inventory.Worker != "" && inventory.Worker != m.id:
		return inventory, unreachable{
			stacyvm.Errorf(stacyvm.CodeUnavailable, "worker %s answers where %s was called", inventory.Worker, m.id),
		}
	}
	return inventory, nil
}

// carryOut does what was decided. Everything it writes is fenced: what changed meanwhile makes it
// fail, and the next pass decides anew.
func (m *machine) carryOut(ctx context.Context, t task) error {
	m.log.Info("recovery", "sandbox", t.id, "action", string(t.action))
	if t.action == warn {
		m.log.Warn("a runtime is left alone", "sandbox", t.id, "cluster", t.runtime.Cluster, "fence", t.runtime.Fence)
		return nil
	}
	if err := m.act(ctx, t); err != nil {
		if code := stacyvm.CodeOf(
			err,
		); (code == stacyvm.CodeConflict || code == stacyvm.CodeStaleEpoch) &&
			m.changed(ctx, t) {
			m.log.Debug(
				"a sandbox changed before recovery came to it",
				"sandbox",
				t.id,
				"action",
				string(t.action),
				"error",
				err,
			)
			return nil
		}
		return err
	}
	tenant := ""
	switch {
	case t.row != nil:
		tenant = t.row.TenantID
	case t.runtime != nil:
		tenant = t.runtime.Request.TenantID
	}
	return m.store.Update(ctx, func(tx store.Tx) error {
		return tx.Events().Append(ctx, []stacyvm.Event{acted(t.id, tenant, string(t.action))})
	})
}

// changed reports whether the sandbox's row is no longer the one that the decision was made for:
// its create was confirmed, or somebody destroyed it.
func (m *machine) changed(ctx context.Context, t task) bool {
	var current *stacyvm.Sandbox
	err := m.store.View(ctx, func(tx store.Tx) error {
		row, err := tx.Sandboxes().Get(ctx, t.id)
		if err == nil {
			current = &row
		}
		return err
	})
	switch {
	case err != nil && stacyvm.CodeOf(err) != stacyvm.CodeNotFound:
		return false
	case current == nil || t.row == nil:
		return (current == nil) != (t.row == nil)
	}
	return current.State != t.row.State || current.Desired != t.row.Desired || current.Fence != t.row.Fence
}

// acted tells of something that was done without being asked for. The states that it led to tell
// of themselves.
func acted(id stacyvm.SandboxID, tenant, action string) stacyvm.Event {
	return stacyvm.Event{
		Kind:      stacyvm.KindReconcile,
		SandboxID: id,
		TenantID:  tenant,
		Data:      map[string]any{"action": action},
	}
}

func (m *machine) act(ctx context.Context, t task) error {
	switch t.action {
	case adopt:
		return m.confirm(ctx, *t.row, t.runtime.Created)
	case resend:
		return m.resend(ctx, t)
	case fail:
		return m.fail(ctx, *t.row)
	case markLost:
		return m.change(ctx, *t.row, stacyvm.StateUnhealthy, lost)
	case updateReason:
		return m.change(ctx, *t.row, "", lost)
	case markUnresponsive:
		return m.change(ctx, *t.row, stacyvm.StateUnhealthy, silent(*t.runtime))
	case markDead:
		return m.change(ctx, *t.row, stacyvm.StateError, died(*t.runtime))
	case restore:
		return m.restore(ctx, *t.row, t.runtime.Created)
	case finish:
		return m.finish(ctx, *t.row, stacyvm.Cause{})
	case clean:
		return m.destroy(ctx, *t.row)
	case kill:
		return m.kill(ctx, t)
	case readmit:
		return m.insert(ctx, t)
	case warn, none: // nothing to do
	}
	return nil
}

// Causes that do not depend on what the worker says.
var (
	lost        = stacyvm.Cause{Reason: stacyvm.ReasonLost, Detail: "its worker has no runtime for it"}
	forgotten   = stacyvm.Cause{Reason: stacyvm.ReasonLost, Detail: "its worker is not registered any more"}
	interrupted = stacyvm.Cause{Reason: stacyvm.ReasonCreateFailed, Detail: "its create was interrupted"}
)

// died is why a runtime ended, as far as its worker knows. A newer worker may have words that are
// none of ours.
func died(r worker.Runtime) stacyvm.Cause {
	cause := r.Cause
	if !slices.Contains(stacyvm.Reasons, cause.Reason) {
		cause.Reason = stacyvm.ReasonRuntimeDied
	}
	if cause.Detail == "" {
		cause.Detail = "its exit status is not known"
	}
	return cause
}

// silent is the cause of a sandbox whose guest program does not answer: since its last answer,
// where one is known.
func silent(r worker.Runtime) stacyvm.Cause {
	return stacyvm.Cause{
		Reason: stacyvm.ReasonNoAnswer,
		Detail: cmp.Or(r.Cause.Detail, "its guest program does not answer"),
		Since:  r.Cause.Since,
	}
}

func (m *machine) confirm(ctx context.Context, row stacyvm.Sandbox, created worker.Created) error {
	return m.store.Update(ctx, func(tx store.Tx) error { return running(ctx, tx, row.ID, row.Fence, created) })
}

func running(
	ctx context.Context,
	tx store.Tx,
	id stacyvm.SandboxID,
	fence stacyvm.Fence,
	created worker.Created,
) error {
	_, err := tx.Sandboxes().Apply(ctx, id, fence, store.Change{
		State:      stacyvm.StateRunning,
		Cause:      &stacyvm.Cause{},
		RuntimeID:  created.RuntimeID,
		Unenforced: created.Unenforced,
	})
	return err
}

// resend sends an interrupted create again; the worker finds what the first one made.
func (m *machine) resend(ctx context.Context, t task) error {
	row := *t.row
	ctx, cancel := context.WithTimeout(ctx, stacyvm.CreateWithin)
	defer cancel()
	asked, err := m.reach()
	if err != nil {
		return err
	}
	created, err := asked.Create(ctx, stacyvm.Ref{ID: row.ID, Fence: row.Fence}, worker.CreateRequest{
		Cluster: t.cluster.ID, Spec: row.Spec, OwnerID: row.OwnerID, TenantID: row.TenantID,
		ExpiresAt: row.Expiry(),
	})
	if err != nil {
		return fmt.Errorf("create %s again: %w", row.ID, err)
	}
	return m.confirm(ctx, row, created)
}

// fail ends a create that nobody finishes. When leftovers cannot be removed now the row is in
// error until they are.
func (m *machine) fail(ctx context.Context, row stacyvm.Sandbox) error {
	err := m.finish(ctx, row, interrupted)
	if err == nil {
		return nil
	}
	failed := m.store.Update(ctx, func(tx store.Tx) error {
		if _, err := tx.Sandboxes().Want(ctx, row.ID, store.Wish{Desired: stacyvm.DesiredDestroyed}); err != nil {
			return err
		}
		_, err := tx.Sandboxes().
			Apply(ctx, row.ID, row.Fence, store.Change{State: stacyvm.StateError, Cause: &interrupted})
		return err
	})
	return errors.Join(err, failed)
}

// finish destroys the runtime and buries the row.
func (m *machine) finish(ctx context.Context, row stacyvm.Sandbox, cause stacyvm.Cause) error {
	if err := m.destroy(ctx, row); err != nil {
		return err
	}
	return m.store.Update(ctx, func(tx store.Tx) error { return markDestroyed(ctx, tx, row, cause, "") })
}

// restore gives a runtime back to its sandbox, with a new epoch: whoever acted for it before is
// fenced.
func (m *machine) restore(ctx context.Context, row stacyvm.Sandbox, created worker.Created) error {
	return m.store.Update(ctx, func(tx store.Tx) error {
		lease, err := m.acquire(ctx, tx, row.ID)
		if err != nil {
			return err
		}
		return running(ctx, tx, row.ID, stacyvm.Fence{Incarnation: row.Fence.Incarnation, Epoch: lease.Epoch}, created)
	})
}

// kill removes a runtime that has no owner here. Its row is read once more: nothing that came into
// being since the comparison is touched. The fence is the one that the worker knows: a higher one
// would be another owner's.
func (m *machine) kill(ctx context.Context, t task) error {
	err := m.store.View(ctx, func(tx store.Tx) error {
		row, err := tx.Sandboxes().Get(ctx, t.id)
		if stacyvm.CodeOf(err) == stacyvm.CodeNotFound {
			return nil
		}
		if err == nil && row.State.Active() && row.WorkerID == m.id {
			return stacyvm.Errorf(stacyvm.CodeConflict, "%s has an owner again", t.id)
		}
		return err
	})
	if err != nil {
		return err
	}
	return m.destroy(ctx, stacyvm.Sandbox{ID: t.id, Fence: t.runtime.Fence})
}

// insert writes the row of a sandbox that the store does not know any more.
func (m *machine) insert(ctx context.Context, t task) error {
	request := t.runtime.Request
	spec := request.Spec
	if spec.TTL = request.ExpiresAt.Sub(t.now); spec.TTL <= 0 {
		spec.TTL = recoveredTTL
	}
	row := stacyvm.Sandbox{
		ID:        t.id,
		State:     stacyvm.StateRunning,
		Desired:   stacyvm.DesiredRunning,
		Provider:  spec.Provider,
		Image:     spec.Image,
		Spec:      spec,
		OwnerID:   request.OwnerID,
		TenantID:  request.TenantID,
		WorkerID:  m.id,
		Recovered: true,
		Fence: stacyvm.Fence{
			Incarnation: t.cluster.Incarnation,
		},
		RuntimeID:  t.runtime.Created.RuntimeID,
		Unenforced: t.runtime.Created.Unenforced,
	}
	switch t.runtime.Phase {
	case worker.PhaseRunning:
	case worker.PhaseDead:
		row.State, row.Cause = stacyvm.StateError, died(*t.runtime)
	default:
		row.State, row.Cause = stacyvm.StateUnhealthy, silent(*t.runtime)
	}
	return m.store.Update(ctx, func(tx store.Tx) error {
		if _, err := tx.Sandboxes().Insert(ctx, row); err != nil {
			return err
		}
		if _, err := m.acquire(ctx, tx, t.id); err != nil {
			return err
		}
		return tx.Audit().AppendOperations(ctx, []stacyvm.Operation{operation(row, "sandbox.recover")})
	})
}
