package local

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"strconv"
	"time"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/image"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

const (
	// maxPids is a backstop, not a quota: some engines count threads of their own.
	maxPids = 8192
	// imageWithin bounds what is done for an image, engineWithin the start of a runtime and, where
	// it has to be, of what starts it, and statusWithin the first question to it. The whole is
	// bounded by stacyvm.CreateWithin.
	imageWithin  = 30 * time.Second
	engineWithin = 50 * time.Second
	statusWithin = 10 * time.Second
	// undoWithin bounds the removal of what a failed create left.
	undoWithin = 30 * time.Second
)

// Create implements worker.Worker. A create whose context ends is undone. CodeStaleEpoch: the
// fence is old, or the sandbox was destroyed with it; CodeNotFound: no such engine or image;
// CodeUnsupported: the engine cannot be used here; CodeConflict: it was destroyed meanwhile;
// CodeUnavailable: it is there and does not answer, or its file is damaged.
func (w *Worker) Create(ctx context.Context, ref stacyvm.Ref, request worker.CreateRequest) (worker.Created, error) {
	if !ref.ID.Valid() {
		return worker.Created{}, stacyvm.Invalid("id", "must be a sandbox id")
	}
	if w.life.Err() != nil {
		return worker.Created{}, errClosed
	}
	b, release := w.acquire(ref.ID)
	defer release()
	for {
		step, err := w.admitCreate(ctx, b, ref, request)
		switch {
		case err != nil:
			return worker.Created{}, err
		case step.found != nil:
			return *step.found, nil
		case step.mine != nil:
			return w.create(b, step.mine, request)
		}
		if err := step.others.wait(ctx); err != nil {
			return worker.Created{}, err
		}
	}
}

// createStep is what a create has to do next. One of its fields is set.
type createStep struct {
	found  *worker.Created // nothing: it is there
	mine   *job            // make it
	others *job            // wait for what goes on, and look again
}

func (w *Worker) admitCreate(
	ctx context.Context,
	b *entry,
	ref stacyvm.Ref,
	request worker.CreateRequest,
) (step createStep, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.damaged != nil {
		return step, stacyvm.Wrap(stacyvm.CodeUnavailable, b.damaged, "the worker's record of the sandbox is damaged")
	}
	w.loadTombstone(b)
	if err := w.admit(b, ref.Fence); err != nil {
		return step, err
	}
	switch {
	case b.destroyed:
		return step, stacyvm.Errorf(stacyvm.CodeStaleEpoch, "the sandbox was destroyed")
	case b.job != nil:
		return createStep{others: b.job}, nil
	case b.record != nil && b.record.Phase == phaseRunning && b.connection != nil:
		return createStep{found: new(b.record.Created)}, nil
	}
	step.mine, err = w.begin(ctx, b, kindCreate)
	return step, err
}

// create is the job of making a runtime, or of finding the one that an earlier process made.
func (w *Worker) create(b *entry, j *job, request worker.CreateRequest) (created worker.Created, err error) {
	var made *connection
	defer func() {
		w.finish(b, j, func() {
			if err == nil {
				b.connection, b.health = made, w.answered(b.id)
			}
		})
		var stopped *stacyvm.Error
		if err != nil && errors.As(context.Cause(j.ctx), &stopped) {
			err = stopped
		}
	}()
	made, created, err = w.earlier(b, j)
	if made != nil || err != nil {
		return created, err
	}
	made, created, err = w.make(b, j, request)
	return created, failure(err, "the sandbox could not be created")
}

// earlier looks for what a create of an earlier process left. A whole runtime is taken over; a
// part is removed. Without a runtime and an error there is nothing.
func (w *Worker) earlier(b *entry, j *job) (*connection, worker.Created, error) {
	r := b.current()
	if r == nil {
		return nil, worker.Created{}, nil
	}
	found, err := w.attachWhole(j.ctx, b)
	switch {
	case err == nil:
		return found, b.current().Created, nil
	case j.ctx.Err() != nil:
		return nil, worker.Created{}, err
	case r.Phase == phaseRunning && stacyvm.CodeOf(err) != stacyvm.CodeNotFound:
		return nil, worker.Created{}, err // it may hold somebody's work
	}
	return nil, worker.Created{}, w.removeRuntime(j.ctx, b.id, r, nil)
}

// make makes a runtime, or leaves nothing.
func (w *Worker) make(b *entry, j *job, request worker.CreateRequest) (*connection, worker.Created, error) {
	e, err := w.usable(j.ctx, request.Spec.Provider)
	if err != nil {
		return nil, worker.Created{}, err
	}
	m := &making{worker: w, entry: b, engine: e, record: record{
		Phase:     phaseCreating,
		Engine:    e.Name(),
		Secret:    string(guest.NewSecret()),
		Request:   request,
		CreatedAt: time.Now().UTC(),
	}}
	defer m.leave()
	if done, err := m.steps().run(j.ctx); err != nil {
		m.leave()
		if undone := done.undo(j.ctx, undoWithin); undone != nil {
			w.log.Error("a failed create cannot be undone yet", "sandbox", b.id, "cause", err, "error", undone)
		}
		return nil, m.created, err
	}
	return m.made, m.created, nil
}

// complete writes down that a runtime is whole, unless that is known.
func (w *Worker) complete(
	ctx context.Context, b *entry, instance engine.Instance, write func(stacyvm.SandboxID, record) error,
) (worker.Created, error) {
	if r := b.current(); r.Phase == phaseRunning {
		return r.Created, nil
	}
	status, err := instance.Status(ctx)
	if err != nil {
		return worker.Created{}, err
	}
	created := worker.Created{RuntimeID: string(b.id), Unenforced: status.Unenforced}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := context.Cause(ctx); err != nil {
		return created, err // destroyed or given up meanwhile
	}
	whole := *b.record
	whole.Phase, whole.Created = phaseRunning, created
	if err := write(b.id, whole); err != nil {
		return created, err
	}
	b.record = &whole
	return created, nil
}

// spec is what the engine is asked for.
func (w *Worker) spec(b *entry, r record, root image.Root) engine.Spec {
	b.mu.Lock()
	fence := b.fence
	b.mu.Unlock()
	env := maps.Clone(root.Env)
	if env == nil {
		env = map[string]string{}
	}
	maps.Copy(env, r.Request.Spec.Env)
	mounts := make([]engine.Mount, len(root.Mounts))
	for i, m := range root.Mounts {
		mounts[i] = engine.Mount(m)
	}
	return engine.Spec{
		ID:          b.id,
		Labels:      labels(fence, r.Request),
		Root:        engine.Root{Dir: root.Dir, Mounts: mounts},
		MemoryBytes: int64(r.Request.Spec.MemoryMB) << 20,
		DiskBytes:   int64(r.Request.Spec.DiskMB) << 20,
		CPUs:        float64(r.Request.Spec.VCPUs),
		Pids:        maxPids,
		Hostname:    string(b.id),
		Boot:        guest.Boot{Secret: guest.Secret(r.Secret), Env: env, User: root.User, Workdir: root.Workdir},
	}
}

func labels(fence stacyvm.Fence, request worker.CreateRequest) map[string]string {
	spec, _ := json.Marshal(request.Spec) // plain fields: cannot fail
	hash := sha256.Sum256(spec)
	return map[string]string{
		engine.LabelCluster:     request.Cluster,
		engine.LabelIncarnation: strconv.FormatInt(fence.Incarnation, 10),
		engine.LabelEpoch:       strconv.FormatInt(fence.Epoch, 10),
		engine.LabelOwner:       request.OwnerID,
		engine.LabelTenant:      request.TenantID,
		engine.LabelSpecHash:    hex.EncodeToString(hash[:]),
		engine.LabelExpires:     strconv.FormatInt(request.ExpiresAt.Unix(), 10),
	}
}
