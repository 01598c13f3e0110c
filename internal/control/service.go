// Package control is what the product does, one file per verb. It writes what callers want of a
// sandbox; reconcile does so only for a create that nobody finishes and for a runtime that it takes
// in again. It knows the store, the workers and the guest client through their ports; it knows no
// transport, no SQL and no engine.
//
// The caller's principal comes with the context (auth.From). An object of another tenant answers
// exactly as an absent one.
package control

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/coalesce"
	"github.com/stacyvm/stacyvm/internal/control/audit"
	"github.com/stacyvm/stacyvm/internal/control/cluster"
	"github.com/stacyvm/stacyvm/internal/control/health"
	"github.com/stacyvm/stacyvm/internal/control/placement"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// Config is what a Service is made from.
type Config struct {
	Store store.Store
	// Workers finds a worker by its id. CodeUnavailable: it is not known here or cannot be
	// reached.
	Workers  func(stacyvm.WorkerID) (worker.Worker, error)
	Self     stacyvm.WorkerID // the worker in this process
	Session  string           // random per process; holds the leases of Self
	Defaults Defaults
	// AuditSync writes each audit line before the operation is answered instead of within 100 ms.
	AuditSync bool
	// Authority signs workers' certificates; nil: another control plane's does.
	Authority cluster.Authority
	// Issuer signs workers' tokens; nil: there is no key for that.
	Issuer *auth.WorkerIssuer
	// Recovered reports whether the first recovery pass over the rows is done; nil means that
	// there is none to wait for.
	Recovered func() bool
	// Full is a CodeStorageFull error while nothing that takes room on this machine should begin;
	// nil: there is always room.
	Full func() error
	// Problems tells operators what is wrong with this machine; nil: nothing is known.
	Problems func() []string
	Logger   *slog.Logger
}

// Defaults fill what a request leaves empty, and bound it.
type Defaults struct {
	Image    string
	Provider string
	MemoryMB int
	VCPUs    int
	DiskMB   int
	TTL      time.Duration
	MaxTTL   time.Duration // 0: no limit

	ExecTimeout    time.Duration // 0: none
	MaxExecTimeout time.Duration // 0: no limit

	MaxSandboxes         int // 0: no limit
	MaxSandboxesPerOwner int // 0: no limit

	SpawnQueue        bool          // creates that find no room wait for it in line; they are refused without
	SpawnQueueTimeout time.Duration // how long; 0: as long as the client waits
	MaxSpawnQueue     int           // how many; 0: any number
}

// Service is what the product does. All methods may be called concurrently. Methods that change
// something finish even when the caller's context ends half-way.
type Service struct {
	*cluster.Registry
	*health.Monitor
	store     store.Store
	workers   func(stacyvm.WorkerID) (worker.Worker, error)
	defaults  Defaults
	full      func() error
	log       *slog.Logger
	rows      *rowCache
	audit     *audit.Writer
	exits     *audit.ExitWatcher
	placement *placement.Placer
	events    *audit.Feed
	confirms  *coalesce.Group[*confirmation]
}

// New makes a service; Background must run for as long as it is used.
func New(config Config) *Service {
	if config.Recovered == nil {
		config.Recovered = func() bool { return true }
	}
	if config.Full == nil {
		config.Full = func() error { return nil }
	}
	if config.Problems == nil {
		config.Problems = func() []string { return nil }
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Service{
		store:    config.Store,
		workers:  config.Workers,
		defaults: config.Defaults,
		full:     config.Full,
		log:      config.Logger,
		rows:     newRowCache(),
		events:   audit.NewFeed(config.Store),
	}
	s.audit = audit.NewWriter(audit.Config{Store: config.Store, Sync: config.AuditSync, Logger: config.Logger})
	s.exits = audit.NewExitWatcher(s.audit)
	s.confirms = coalesce.NewGroup(confirmMost, s.confirmTogether)
	s.Registry = cluster.NewRegistry(cluster.Config{
		Store: config.Store, Self: config.Self, Authority: config.Authority, Issuer: config.Issuer,
		Audit: s.audit, Changed: s.rows.drop, Logger: config.Logger,
	})
	d := config.Defaults
	s.placement = placement.New(placement.Config{
		Store: config.Store, Self: config.Self, Session: config.Session,
		Limits: placement.Limits{TTL: d.MaxTTL, Total: d.MaxSandboxes, PerOwner: d.MaxSandboxesPerOwner},
		Queue:  placement.QueueConfig{On: d.SpawnQueue, Timeout: d.SpawnQueueTimeout, Length: d.MaxSpawnQueue},
		Audit:  s.audit, Logger: config.Logger,
	})
	s.Monitor = health.NewMonitor(health.Config{
		Store: config.Store, Workers: config.Workers, Self: config.Self, Provider: d.Provider,
		Recovered: config.Recovered, Problems: config.Problems,
		Audit: s.audit, Placement: s.placement, Logger: config.Logger,
	})
	return s
}

// Background writes audit and exec log lines and events in batches, gives turns to creates that
// wait for room, and watches the store and the disk, until ctx ends, and then writes what is
// left. End it after the last request. (Run, the name that other long-lived parts give to this,
// is a verb of the product here.)
func (s *Service) Background(ctx context.Context) error {
	var lines sync.WaitGroup
	lines.Go(func() { s.placement.Run(ctx) })
	lines.Go(func() { s.Watch(ctx) })
	err := s.audit.Run(ctx)
	lines.Wait()
	s.exits.Close()
	return err
}

// Drain sends creates that wait for room or for their turn away with CodeUnavailable and lets
// nobody wait any more: for a server that stops.
func (s *Service) Drain() { s.placement.Drain() }

// record writes the audit line of what the target's caller did, and gives the operation's error.
func (s *Service) record(ctx context.Context, t target, action, resource string, err error) error {
	return s.audit.Record(ctx, t.caller, action, t.row.Sandbox, resource, err)
}
