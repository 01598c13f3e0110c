package daemon

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/bundle"
	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/engine/gvisor"
	"github.com/stacyvm/stacyvm/internal/engine/mock"
	"github.com/stacyvm/stacyvm/internal/image"
	"github.com/stacyvm/stacyvm/internal/reconcile"
	"github.com/stacyvm/stacyvm/internal/space"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
	"github.com/stacyvm/stacyvm/internal/worker/local"
)

// parts are the pieces of one server, joined.
type parts struct {
	store      store.Store
	guard      *space.Guard
	engines    []engine.Engine
	worker     *local.Worker // nil: a control plane alone
	fleet      *fleet
	service    *control.Service
	reconciler *reconcile.Reconciler
}

// assemble opens everything in p; t is what workers of other machines are called with, and guard watches the disk. After an error
// everything is closed again.
func assemble(ctx context.Context, c config.Config, p place, t *trust, guard *space.Guard, log *slog.Logger) (made *parts, err error) {
	made = &parts{guard: guard}
	defer func() {
		if err != nil {
			err = errors.Join(err, made.close())
		}
	}()
	if c.Worker.ID, err = workerName(c); err != nil {
		return made, err
	}
	var own worker.Worker // stays nil without one
	if c.Server.Worker {
		if err := made.openWorker(c, p, log); err != nil {
			return made, err
		}
		if err := checkDefault(ctx, made.worker); err != nil {
			return made, fullFirst(guard, err)
		}
		own = sparedWorker{made.worker, guard}
	}
	database := storeConfig(c, p.database)
	database.Warn = func(message string) { log.Warn(message + "; " + blindFix) }
	opened, err := store.Open(ctx, database)
	if err != nil {
		return made, fullFirst(guard, err)
	}
	made.store = sparedStore{opened, guard}
	self, session := stacyvm.WorkerID(c.Worker.ID), rand.Text()
	hostname, err := os.Hostname()
	if err != nil {
		return made, err
	}
	made.fleet = &fleet{self: self, own: own, store: made.store, dial: t.dial, log: log}
	made.reconciler = reconcile.New(reconcile.Config{
		Store: made.store, Self: self, Session: session, Worker: own, Hostname: hostname, Capacity: capacityOf(c),
		Workers: made.fleet.worker, AuditRetention: c.Auth.AdminAuditRetention, Logger: log,
	})
	full := guard.Full
	if c.Postgres() { // the records are elsewhere, and so may be the sandboxes; each worker judges for itself
		full = nil
	}
	made.service = control.New(control.Config{
		Store: made.store, Self: self, Session: session, Defaults: defaults(c), AuditSync: c.Audit.Sync,
		Workers:   made.fleet.worker,
		Authority: authorityOf(c),
		Issuer:    t.issuer,
		Recovered: made.reconciler.Recovered,
		Full:      full,
		Problems:  guard.Problems,
		Logger:    log,
	})
	return made, nil
}

// fullFirst tells of a full disk rather than of what failed on it.
func fullFirst(guard *space.Guard, err error) error {
	if problems := guard.Problems(); len(problems) > 0 {
		return stacyvm.Wrap(stacyvm.CodeStorageFull, err, strings.Join(problems, "; ")+": make room there")
	}
	return err
}

// workerName gives this process's name in the store. SQLite has one server; PostgreSQL may have many, and two of one name
// would take each other's sandboxes over, so that each data directory gets a name of its own. A control plane alone has no
// worker: worker.id in its configuration names the worker process beside it, which may share the file.
func workerName(c config.Config) (string, error) {
	switch {
	case c.Server.Worker && c.Worker.ID != "":
		return c.Worker.ID, nil
	case !c.Postgres():
		return "local", nil
	}
	path := filepath.Join(c.DataDir, "worker_id")
	kept, err := os.ReadFile(path)
	if err == nil {
		return strings.TrimSpace(string(kept)), nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	name := "worker-" + strings.ToLower(rand.Text()[:12])
	return name, os.WriteFile(path, []byte(name+"\n"), 0o600)
}

// openWorker opens the machine's own part: engines, images and the worker over them.
func (m *parts) openWorker(c config.Config, p place, log *slog.Logger) (err error) {
	if m.engines, err = openEngines(c, p); err != nil {
		return err
	}
	images, err := image.Open(p.images)
	if err != nil {
		return err
	}
	m.worker, err = local.Open(local.Config{
		ID: stacyvm.WorkerID(cmp.Or(c.Worker.ID, "local")), Dir: p.worker, Engines: m.engines, Default: c.Providers.Default, Images: images,
		ParallelCreates: parallelCreates(c), Logger: log,
	})
	return err
}

// ask has this machine's worker, if there is one, ask its guests for signs of life until ctx ends.
func (m *parts) ask(ctx context.Context) error {
	if m.worker == nil {
		return nil
	}
	return m.worker.Run(ctx)
}

// parallelCreates is how many sandboxes this machine starts at a time. A start is work for somewhat more than one processor:
// with fewer at a time processors idle, with more none ends sooner and all end later.
func parallelCreates(c config.Config) int {
	return cmp.Or(c.Worker.ParallelCreates, 2*runtime.NumCPU())
}

// capacityOf is what the worker in a server offers: what the configuration says, and else as much as is asked for.
func capacityOf(c config.Config) stacyvm.Capacity {
	return stacyvm.Capacity{
		MaxSandboxes: c.Worker.MaxSandboxes, MemoryMB: c.Worker.MemoryMB, VCPUs: c.Worker.VCPUs, ParallelCreates: parallelCreates(c),
		PreviewDomain: cmp.Or(c.Worker.PreviewDomain, c.Server.PreviewDomain), Labels: c.Worker.Labels,
	}
}

func defaults(c config.Config) control.Defaults {
	return control.Defaults{
		Image:                c.Defaults.Image,
		Provider:             c.Providers.Default,
		MemoryMB:             c.Defaults.MemoryMB,
		VCPUs:                c.Defaults.VCPUs,
		DiskMB:               c.Defaults.DiskSizeMB,
		TTL:                  c.Defaults.TTL,
		MaxTTL:               c.Defaults.MaxTTL,
		ExecTimeout:          c.Defaults.DefaultExecTimeout,
		MaxExecTimeout:       c.Defaults.MaxExecTimeout,
		MaxSandboxes:         c.Defaults.MaxSandboxes,
		MaxSandboxesPerOwner: c.Defaults.MaxSandboxesPerOwner,
		SpawnQueue:           c.Defaults.SpawnOverflow == config.OverflowQueue,
		SpawnQueueTimeout:    c.Defaults.SpawnQueueTimeout,
		MaxSpawnQueue:        c.Defaults.MaxSpawnQueue,
	}
}

// openEngines opens the enabled ones.
func openEngines(c config.Config, p place) (engines []engine.Engine, err error) {
	if c.Providers.GVisor.Enabled {
		g, err := openGVisor(p)
		if err != nil {
			return engines, err
		}
		engines = append(engines, g)
	}
	if c.Providers.Mock.Enabled {
		m, err := mock.Open(mock.Config{Dir: filepath.Join(p.engines, mock.Name)})
		if err != nil {
			return engines, err
		}
		engines = append(engines, m)
	}
	return engines, nil
}

// openGVisor opens the embedded engine with the programs of this build.
func openGVisor(p place) (*gvisor.Engine, error) {
	if err := os.MkdirAll(p.programs, 0o755); err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, "data_dir: cannot be written")
	}
	launcher, err := bundle.Unpack(p.programs, bundle.Sentry)
	if err != nil {
		return nil, err
	}
	guest, err := bundle.Unpack(p.programs, bundle.Guest)
	if err != nil {
		return nil, err
	}
	return gvisor.Open(gvisor.Config{Dir: filepath.Join(p.engines, gvisor.Name), Launcher: launcher, Guest: guest})
}

// probeWithin bounds the first look at the engines, which makes a trial sandbox: seconds, on a slow machine that has just been
// started more than half a minute.
const probeWithin = 2 * time.Minute

// checkDefault refuses a machine on which the default engine does not work.
func checkDefault(ctx context.Context, w worker.Worker) error {
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	providers, err := w.Providers(ctx)
	if err != nil {
		return err
	}
	for _, p := range providers {
		if !p.Default || p.Error == "" && p.Capabilities.Usable {
			continue
		}
		why, fix := p.Error, ""
		if len(p.Capabilities.Problems) > 0 {
			why, fix = cmp.Or(why, p.Capabilities.Problems[0].What), p.Capabilities.Problems[0].Fix
		}
		if fix != "" {
			why += "; " + fix
		}
		return stacyvm.Errorf(stacyvm.CodeUnsupported, "the default engine %s does not work here: %s (see `stacyvm doctor`)", p.Name, why)
	}
	return nil
}

// close lets go of everything; sandboxes stay when their engine survives.
func (m *parts) close() error {
	var failures []error
	if m.fleet != nil {
		m.fleet.close()
	}
	if m.worker != nil {
		failures = append(failures, m.worker.Close())
	}
	for _, e := range m.engines {
		if err := e.Close(); err != nil {
			failures = append(failures, fmt.Errorf("close engine %s: %w", e.Name(), err))
		}
	}
	if m.store != nil {
		failures = append(failures, m.store.Close())
	}
	return errors.Join(failures...)
}
