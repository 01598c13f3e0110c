package daemon

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/flock"
	"github.com/stacyvm/stacyvm/internal/node"
	"github.com/stacyvm/stacyvm/internal/reconcile"
	"github.com/stacyvm/stacyvm/internal/space"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// parts are the pieces of one server, joined.
type parts struct {
	node       node.Node   // without a worker: a control plane alone
	held       *flock.Lock // of SQLite's file; nil: PostgreSQL
	store      store.Store
	guard      *space.Guard
	fleet      *fleet
	service    *control.Service
	reconciler *reconcile.Reconciler
}

// assemble opens everything in p; t is what workers of other machines are called with, and guard
// watches the disk. After an error everything is closed again.
func assemble(
	ctx context.Context,
	c config.Config,
	p node.Place,
	t *trust,
	guard *space.Guard,
	log *slog.Logger,
) (made *parts, err error) {
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
		if err := made.node.Open(c, p, log); err != nil {
			return made, err
		}
		if err := checkDefault(ctx, made.node.Worker); err != nil {
			return made, node.FullFirst(guard, err)
		}
		own = node.GuardedWorker{Worker: made.node.Worker, Guard: guard}
	}
	database := storeConfig(c, p.Database)
	if !c.Postgres() {
		if made.held, err = lockDatabase(p.Database); err != nil {
			return made, err
		}
		database.Alone = true
	}
	database.Warn = func(message string) { log.Warn(message + "; " + HistoryFix) }
	opened, err := store.Open(ctx, database)
	if err != nil {
		return made, node.FullFirst(guard, err)
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

// workerName gives this process's name in the store. SQLite has one server; PostgreSQL may have
// many, and two of one name would take each other's sandboxes over, so that each data directory
// gets a name of its own. A control plane alone has no worker: worker.id in its configuration
// names the worker process beside it, which may share the file.
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

// capacityOf is what the worker in a server offers: what the configuration says, and else as much
// as is asked for.
func capacityOf(c config.Config) stacyvm.Capacity {
	return stacyvm.Capacity{
		MaxSandboxes:    c.Worker.MaxSandboxes,
		MemoryMB:        c.Worker.MemoryMB,
		VCPUs:           c.Worker.VCPUs,
		ParallelCreates: node.ParallelCreates(c),
		PreviewDomain:   cmp.Or(c.Worker.PreviewDomain, c.Server.PreviewDomain),
		Labels:          c.Worker.Labels,
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

// checkDefault refuses a machine on which the default engine does not work.
func checkDefault(ctx context.Context, w worker.Worker) error {
	ctx, cancel := context.WithTimeout(ctx, node.ProbeWithin)
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
		return stacyvm.Errorf(
			stacyvm.CodeUnsupported,
			"the default engine %s does not work here: %s (see `stacyvm doctor`)",
			p.Name,
			why,
		)
	}
	return nil
}

// close lets go of everything; sandboxes stay when their engine survives.
func (m *parts) close() error {
	var failures []error
	if m.fleet != nil {
		m.fleet.close()
	}
	failures = append(failures, m.node.Close())
	if m.store != nil {
		failures = append(failures, m.store.Close())
	}
	if m.held != nil {
		m.held.Release()
	}
	return errors.Join(failures...)
}
