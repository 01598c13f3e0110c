package local

import (
	"cmp"
	"context"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// found is a runtime with the engine that has it.
type found struct {
	engine.Runtime
	engine string
}

// Inventory implements worker.Worker. It asks the engines and no guest: of those it tells what Run
// has found out, and when. A record without a runtime is not a runtime and is not listed.
func (w *Worker) Inventory(ctx context.Context) (worker.Inventory, error) {
	if err := w.enter(); err != nil {
		return worker.Inventory{}, err
	}
	defer w.work.Done()
	ctx, cancel := w.whileOpen(ctx)
	defer cancel()
	w.begun(ctx)
	before := map[stacyvm.SandboxID]*entry{} // a create that ends meanwhile is in the list below
	for _, b := range w.all() {
		before[b.id] = b
	}
	all, err := w.runtimes(ctx)
	if err != nil {
		return worker.Inventory{}, err
	}
	w.tidy(all)
	if err := ctx.Err(); err != nil {
		return worker.Inventory{}, failure(err, "the inventory was interrupted")
	}
	inventory := worker.Inventory{Worker: w.id}
	lines := w.withoutRuntime(before, all)
	for _, f := range all {
		lines = append(lines, w.examine(f, before[f.ID] != nil))
	}
	for _, line := range lines {
		if line != nil {
			inventory.Runtimes = append(inventory.Runtimes, *line)
		}
	}
	slices.SortFunc(inventory.Runtimes, func(a, b worker.Runtime) int { return cmp.Compare(a.ID, b.ID) })
	return inventory, nil
}

// runtimes lists what every engine has, or fails. An engine that cannot run here at all, and that
// no record names, has nothing.
func (w *Worker) runtimes(ctx context.Context) ([]found, error) {
	lists := make([][]engine.Runtime, len(w.engines))
	var asking errgroup.Group
	for i, e := range w.engines {
		asking.Go(func() (err error) {
			if lists[i], err = e.List(ctx); err != nil && w.unused(ctx, e.Name()) {
				err = nil
			}
			return failure(err, "the runtimes of "+e.Name()+" cannot be listed")
		})
	}
	if err := asking.Wait(); err != nil {
		return nil, err
	}
	var all []found
	for i, list := range lists {
		for _, r := range list {
			if r.ID.Valid() { // engines may try themselves out under other names
				all = append(all, found{r, w.engines[i].Name()})
			}
		}
	}
	return all, nil
}

// unused reports whether an engine is known not to work on this machine and no sandbox was made
// with it.
func (w *Worker) unused(ctx context.Context, name string) bool {
	for _, b := range w.all() {
		if r := b.current(); r != nil && r.Engine == name {
			return false
		}
	}
	p := w.probe(ctx, w.engine(name))
	return p.Error == "" && !p.CheckedAt.IsZero() && !p.Capabilities.Usable
}

// examine makes one line; nil when the sandbox went away meanwhile. known says that it was here
// before the engines were asked.
func (w *Worker) examine(f found, known bool) *worker.Runtime {
	b := w.lookup(f.ID)
	if b == nil {
		if known {
			return nil
		}
		return fromLabels(f)
	}
	b.mu.Lock()
	r, fence, busy, health, damaged := b.record, b.fence, b.job, b.health, b.damaged
	b.mu.Unlock()
	if r == nil {
		line := fromLabels(f)
		if damaged != nil && line.Phase == worker.PhaseSilent {
			line.Cause.Detail = "its worker's record of it is damaged, so that its guest program cannot be asked"
		}
		if fence.Compare(line.Fence) > 0 {
			line.Fence = fence
		}
		return line
	}
	line := &worker.Runtime{
		ID:        f.ID,
		Fence:     fence,
		Cluster:   r.Request.Cluster,
		Request:   r.Request,
		Created:   r.Created,
		CreatedAt: r.CreatedAt,
		CheckedAt: health.checked,
	}
	if at := expiryOf(f.Labels); !at.IsZero() { // it may have changed since the create
		line.Request.ExpiresAt = at
	}
	switch {
	case busy != nil && busy.kind == kindCreate:
		line.Phase = worker.PhaseCreating
	case busy != nil && busy.kind == kindDestroy: // part of it is gone; it did not die
		line.Phase = worker.PhaseUnknown
	case !f.Running:
		line.Phase, line.Cause = worker.PhaseDead, f.Cause
	case health.checked.IsZero():
		line.Phase = worker.PhaseUnknown
	case health.misses > 0:
		line.Phase, line.Cause = worker.PhaseSilent, stacyvm.Cause{
			Reason: stacyvm.ReasonNoAnswer,
			Since:  health.answered,
		}
	default:
		line.Phase = worker.PhaseRunning
	}
	return line
}

// withoutRuntime lists creates whose runtime no engine shows yet.
func (w *Worker) withoutRuntime(before map[stacyvm.SandboxID]*entry, all []found) []*worker.Runtime {
	listed := make(map[stacyvm.SandboxID]bool, len(all))
	for _, f := range all {
		listed[f.ID] = true
	}
	var lines []*worker.Runtime
	for _, b := range before {
		b.mu.Lock()
		if b.job != nil && b.job.kind == kindCreate && b.record != nil && !listed[b.id] {
			lines = append(lines, &worker.Runtime{
				ID: b.id, Fence: b.fence, Cluster: b.record.Request.Cluster, Phase: worker.PhaseCreating,
				Request: b.record.Request, CreatedAt: b.record.CreatedAt,
			})
		}
		b.mu.Unlock()
	}
	return lines
}

// fromLabels is what can be said of a runtime without a record: without its secret its guest
// cannot be asked.
func fromLabels(f found) *worker.Runtime {
	line := &worker.Runtime{
		ID:      f.ID,
		Fence:   fenceOf(f.Labels),
		Cluster: f.Labels[engine.LabelCluster],
		Phase:   worker.PhaseSilent,
		Request: worker.CreateRequest{
			Cluster:  f.Labels[engine.LabelCluster],
			OwnerID:  f.Labels[engine.LabelOwner],
			TenantID: f.Labels[engine.LabelTenant],
			Spec:     stacyvm.Spec{Provider: f.engine},
		},
		Created:   worker.Created{RuntimeID: string(f.ID)},
		CreatedAt: f.Created,
		Cause: stacyvm.Cause{
			Reason: stacyvm.ReasonNoAnswer,
			Detail: "its worker has no record of it, so that its guest program cannot be asked",
		},
	}
	line.Request.ExpiresAt = expiryOf(f.Labels)
	if !f.Running {
		line.Phase, line.Cause = worker.PhaseDead, f.Cause
	}
	return line
}

// expiryOf reads when a runtime expires; zero: never, as far as its engine knows.
func expiryOf(labels map[string]string) time.Time {
	seconds, err := strconv.ParseInt(labels[engine.LabelExpires], 10, 64)
	if err != nil || seconds <= 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

// fenceOf reads the fence of a runtime's creation; the zero fence when it has none.
func fenceOf(labels map[string]string) stacyvm.Fence {
	incarnation, first := strconv.ParseInt(labels[engine.LabelIncarnation], 10, 64)
	epoch, second := strconv.ParseInt(labels[engine.LabelEpoch], 10, 64)
	if first != nil || second != nil {
		return stacyvm.Fence{}
	}
	return stacyvm.Fence{Incarnation: incarnation, Epoch: epoch}
}
