// Package mock is an engine that isolates nothing: the guest program's code runs in this process,
// and a sandbox's commands are processes of this machine with a private directory. It is for
// tests, and for measuring the control plane without the cost of a sandbox. It can be told to
// misbehave: see Faults.
package mock

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Name is the provider name.
const Name = "mock"

// version is what stands where others name their version.
const version = "mock, isolates nothing"

// Config says where the engine lives.
type Config struct {
	// Dir holds one directory per sandbox; made when missing. One engine at a time may use it.
	Dir string
}

// Engine implements engine.Engine, engine.Remover and engine.Expirer. Its runtimes end with it.
type Engine struct {
	dir string

	mu       sync.Mutex
	closed   bool
	faults   Faults
	runtimes map[stacyvm.SandboxID]*runtime
}

var (
	_ engine.Engine  = (*Engine)(nil)
	_ engine.Remover = (*Engine)(nil)
	_ engine.Expirer = (*Engine)(nil)
)

// Open prepares the directory and removes what an earlier process left there. CodeInvalid: it
// cannot be used.
func Open(config Config) (*Engine, error) {
	dir, err := filepath.Abs(config.Dir)
	if err != nil || config.Dir == "" {
		return nil, stacyvm.Invalid("data_dir", "must be a directory")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, "data_dir: cannot be made")
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, "data_dir: cannot be read")
	}
	for _, entry := range entries {
		if !stacyvm.SandboxID(entry.Name()).Valid() {
			continue // not ours
		}
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, "data_dir: an earlier sandbox cannot be removed")
		}
	}
	return &Engine{dir: dir, runtimes: map[stacyvm.SandboxID]*runtime{}}, nil
}

// Name implements engine.Engine.
func (e *Engine) Name() string { return Name }

// Probe implements engine.Engine.
func (e *Engine) Probe(ctx context.Context) (engine.Capabilities, error) {
	faults := e.present()
	if err := errors.Join(ctx.Err(), faults.Probe); err != nil {
		return engine.Capabilities{}, err
	}
	found := engine.Capabilities{
		Usable: true, Enforces: []stacyvm.Limit{}, Features: []stacyvm.Feature{}, Version: version,
		Problems: []engine.Problem{{
			What: "mock isolates nothing: commands run on this machine, as the server's own user and without limits",
			Fix:  "use another provider for anything that is not a test",
		}},
	}
	if faults.Unusable != "" {
		found.Usable, found.Problems = false, []engine.Problem{{What: faults.Unusable, Fix: "take the fault away"}}
	}
	return found, nil
}

// Create implements engine.Engine.
func (e *Engine) Create(ctx context.Context, spec engine.Spec) (engine.Instance, error) {
	if !spec.ID.Valid() {
		return nil, stacyvm.Invalid("id", "must be a sandbox id")
	}
	r := newRuntime(e, spec)
	if err := e.reserve(r); err != nil {
		return nil, err
	}
	faults := e.present()
	err := faults.beforeCreate(ctx)
	if err == nil {
		err = r.start(spec.Boot)
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		if left := r.destroy(); left != nil {
			err = errors.Join(err, left)
		}
		return nil, wrap(err)
	}
	if faults.BreakCreate != nil {
		return nil, faults.BreakCreate
	}
	return r, nil
}

// reserve takes the id.
func (e *Engine) reserve(r *runtime) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return stacyvm.Errorf(stacyvm.CodeUnavailable, "the engine is closed")
	}
	if e.runtimes[r.id] != nil {
		return stacyvm.Errorf(stacyvm.CodeConflict, "a sandbox with this id exists")
	}
	e.runtimes[r.id] = r
	return nil
}

// Attach implements engine.Engine. A wrong secret shows when the guest is asked.
func (e *Engine) Attach(ctx context.Context, id stacyvm.SandboxID, _ guest.Secret) (engine.Instance, error) {
	if err := e.present().hang(ctx); err != nil {
		return nil, err
	}
	r := e.find(id)
	if r == nil {
		return nil, errNotFound
	}
	if running, detail := r.state(); !running {
		return nil, stacyvm.Wrap(stacyvm.CodeUnavailable, errors.New(detail), "the sandbox does not run")
	}
	return r, nil
}

var errNotFound = stacyvm.Errorf(stacyvm.CodeNotFound, "no such sandbox")

func (e *Engine) find(id stacyvm.SandboxID) *runtime {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.runtimes[id]
}

// List implements engine.Engine.
func (e *Engine) List(ctx context.Context) ([]engine.Runtime, error) {
	faults := e.present()
	if err := errors.Join(ctx.Err(), faults.List); err != nil {
		return nil, wrap(err)
	}
	var list []engine.Runtime
	for _, r := range e.all() {
		if r.id == faults.HideFromList {
			continue
		}
		running, detail := r.state()
		list = append(list, engine.Runtime{
			ID: r.id, Labels: r.labelled(), Running: running, Detail: detail, Cause: r.cause(), Created: r.created,
		})
	}
	return list, nil
}

func (e *Engine) all() []*runtime {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []*runtime
	for _, r := range e.runtimes {
		all = append(all, r)
	}
	return all
}

// Remove implements engine.Remover.
func (e *Engine) Remove(ctx context.Context, id stacyvm.SandboxID) error {
	if err := errors.Join(ctx.Err(), e.present().Destroy); err != nil {
		return wrap(err)
	}
	if r := e.find(id); r != nil {
		return r.destroy()
	}
	return nil
}

// Expire implements engine.Expirer: it keeps the label, and ends nothing.
func (e *Engine) Expire(ctx context.Context, id stacyvm.SandboxID, at time.Time) error {
	if err := ctx.Err(); err != nil {
		return wrap(err)
	}
	r := e.find(id)
	if r == nil {
		return errNotFound
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.labels == nil {
		r.labels = map[string]string{}
	}
	r.labels[engine.LabelExpires] = strconv.FormatInt(at.Unix(), 10)
	return nil
}

// Close implements engine.Engine: every runtime ends.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	var errs []error
	for _, r := range e.all() {
		errs = append(errs, r.destroy())
	}
	return errors.Join(errs...)
}

// wrap gives err a code if it has none.
func wrap(err error) error {
	var coded *stacyvm.Error
	switch {
	case err == nil || errors.As(err, &coded):
		return err
	case errors.Is(err, context.DeadlineExceeded):
		return stacyvm.Wrap(stacyvm.CodeTimeout, err, "the sandbox did not start in time")
	case errors.Is(err, context.Canceled):
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the sandbox was given up")
	}
	return stacyvm.Wrap(stacyvm.CodeInternal, err, "the sandbox could not be made")
}
