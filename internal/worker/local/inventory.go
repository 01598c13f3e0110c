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

const (
	// pingWithin bounds one guest's answer, and pings how many are asked at once.
	pingWithin = 5 * time.Second
	pings      = 32
	// pingKept is how long an answer counts.
	pingKept = 2 * time.Second
)

// Reasons why a runtime is not healthy.
const (
	reasonCreating = "creating"
	reasonDead     = "dead"
	reasonNoAnswer = "no_answer"
)

// found is a runtime with the engine that has it.
type found struct {
	engine.Runtime
	engine string
}

// Inventory implements worker.Worker. Every guest is asked for an answer, a few at a time; one that answered within the
// last two seconds is not asked again. A record without a runtime is not a runtime and is not listed.
func (w *Worker) Inventory(ctx context.Context) (worker.Inventory, error) {
	if err := w.enter(); err != nil {
		return worker.Inventory{}, err
	}
	defer w.work.Done()
	ctx, cancel := w.whileOpen(ctx)
	defer cancel()
	before := map[stacyvm.SandboxID]*box{} // a create that ends meanwhile is in the list below
	for _, b := range w.all() {
		before[b.id] = b
	}
	all, err := w.runtimes(ctx)
	if err != nil {
		return worker.Inventory{}, err
	}
	w.tidy(all)
	lines := make([]*worker.Runtime, len(all))
	var asking errgroup.Group
	asking.SetLimit(pings)
	for i, f := range all {
		asking.Go(func() error {
			lines[i] = w.examine(ctx, f, before[f.ID] != nil)
			return nil
		})
	}
	_ = asking.Wait() // they report by line
	if err := ctx.Err(); err != nil {
		return worker.Inventory{}, failure(err, "the inventory was interrupted")
	}
	inventory := worker.Inventory{Worker: w.id}
	for _, line := range slices.Concat(lines, w.unborn(before, all)) {
		if line != nil {
			inventory.Runtimes = append(inventory.Runtimes, *line)
		}
	}
	slices.SortFunc(inventory.Runtimes, func(a, b worker.Runtime) int { return cmp.Compare(a.ID, b.ID) })
	return inventory, nil
}

// runtimes lists what every engine has, or fails. An engine that cannot run here at all, and that no record names, has
// nothing.
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

// unused reports whether an engine is known not to work on this machine and no sandbox was made with it.
func (w *Worker) unused(ctx context.Context, name string) bool {
	for _, b := range w.all() {
		if r := b.current(); r != nil && r.Engine == name {
			return false
		}
	}
	p := w.probe(ctx, w.engine(name))
	return p.Error == "" && !p.CheckedAt.IsZero() && !p.Capabilities.Usable
}

// examine makes one line; nil when the sandbox went away meanwhile. known says that it was here before the engines were
// asked.
func (w *Worker) examine(ctx context.Context, f found, known bool) *worker.Runtime {
	b := w.lookup(f.ID)
	if b == nil {
		if known {
			return nil
		}
		return fromLabels(f)
	}
	b.mu.Lock()
	r, fence, busy, pinged := b.record, b.fence, b.job, b.pinged
	b.mu.Unlock()
	if r == nil {
		line := fromLabels(f)
		if fence.Compare(line.Fence) > 0 {
			line.Fence = fence
		}
		return line
	}
	line := &worker.Runtime{
		ID: f.ID, Fence: fence, Cluster: r.Request.Cluster, Request: r.Request, Created: r.Created, CreatedAt: r.CreatedAt,
	}
	switch {
	case busy != nil && busy.kind == kindCreate:
		line.Reason = reasonCreating
	case !f.Running:
		line.Reason, line.Cause = reasonDead, f.Cause
	case time.Since(pinged) < pingKept:
		line.Healthy = true
	default:
		return w.ask(ctx, b, line)
	}
	return line
}

// ask fills in what the guest says, or how it is silent. nil: the runtime is not there any more.
func (w *Worker) ask(ctx context.Context, b *box, line *worker.Runtime) *worker.Runtime {
	ctx, cancel := context.WithTimeout(ctx, pingWithin)
	defer cancel()
	l, err := w.connected(ctx, b)
	if err == nil {
		if err = l.ping(ctx); err == nil {
			b.mu.Lock()
			b.pinged = time.Now()
			if b.record != nil {
				line.Created = b.record.Created // attaching may have completed it
			}
			b.mu.Unlock()
			line.Healthy = true
			return line
		}
	}
	line.Reason, line.Cause = reasonNoAnswer, stacyvm.Cause{Reason: stacyvm.ReasonNoAnswer, Since: b.lastAnswer()}
	if stacyvm.CodeOf(err) == stacyvm.CodeNotFound && w.lookup(b.id) == nil {
		return nil
	}
	w.log.Debug("a guest does not answer", "sandbox", b.id, "error", err)
	if l == nil {
		return line
	}
	// It may have died since the list was made; the question has a time of its own.
	ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), pingWithin)
	defer cancel()
	switch status, err := l.instance.Status(ctx); {
	case stacyvm.CodeOf(err) == stacyvm.CodeNotFound:
		return nil
	case err == nil && !status.Running:
		line.Reason, line.Cause = reasonDead, status.Cause
	}
	return line
}

// lastAnswer is when the guest answered last; zero: not since this process began.
func (b *box) lastAnswer() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pinged
}

// unborn lists creates whose runtime no engine shows yet.
func (w *Worker) unborn(before map[stacyvm.SandboxID]*box, all []found) []*worker.Runtime {
	listed := make(map[stacyvm.SandboxID]bool, len(all))
	for _, f := range all {
		listed[f.ID] = true
	}
	var lines []*worker.Runtime
	for _, b := range before {
		b.mu.Lock()
		if b.job != nil && b.job.kind == kindCreate && b.record != nil && !listed[b.id] {
			lines = append(lines, &worker.Runtime{
				ID: b.id, Fence: b.fence, Cluster: b.record.Request.Cluster, Reason: reasonCreating,
				Request: b.record.Request, CreatedAt: b.record.CreatedAt,
			})
		}
		b.mu.Unlock()
	}
	return lines
}

// fromLabels is what can be said of a runtime without a record: without its secret its guest cannot be asked.
func fromLabels(f found) *worker.Runtime {
	line := &worker.Runtime{
		ID: f.ID, Fence: fenceOf(f.Labels), Cluster: f.Labels[engine.LabelCluster], Reason: reasonNoAnswer,
		Request: worker.CreateRequest{
			Cluster: f.Labels[engine.LabelCluster], OwnerID: f.Labels[engine.LabelOwner], TenantID: f.Labels[engine.LabelTenant],
			Spec: stacyvm.Spec{Provider: f.engine},
		},
		Created: worker.Created{RuntimeID: string(f.ID)}, CreatedAt: f.Created,
	}
	if seconds, err := strconv.ParseInt(f.Labels[engine.LabelExpires], 10, 64); err == nil {
		line.Request.ExpiresAt = time.Unix(seconds, 0).UTC()
	}
	if !f.Running {
		line.Reason, line.Cause = reasonDead, f.Cause
	}
	return line
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
