// Package health says how the whole installation is: whether requests can be served, which
// engines there are, what is wrong now and what went wrong lately. It asks the store and the
// workers, and changes nothing.
package health

import (
	"context"
	"log/slog"

	"github.com/stacyvm/stacyvm/internal/control/audit"
	"github.com/stacyvm/stacyvm/internal/control/placement"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// Config is what a Monitor is made from.
type Config struct {
	Store store.Store
	// Workers finds a worker by its id. CodeUnavailable: it is not known here or cannot be
	// reached.
	Workers  func(stacyvm.WorkerID) (worker.Worker, error)
	Self     stacyvm.WorkerID // the worker in this process
	Provider string           // the default
	// Recovered reports whether the first recovery pass over the rows is done.
	Recovered func() bool
	// Problems tells operators what is wrong with this machine.
	Problems  func() []string
	Audit     *audit.Writer
	Placement *placement.Placer
	Logger    *slog.Logger
}

// Monitor asks how everything is. All methods may be called concurrently.
type Monitor struct {
	store     store.Store
	workers   func(stacyvm.WorkerID) (worker.Worker, error)
	self      stacyvm.WorkerID
	provider  string
	recovered func() bool
	problems  func() []string
	audit     *audit.Writer
	placement *placement.Placer
	log       *slog.Logger
	elsewhere engines
	outages   *outages
}

// NewMonitor makes a monitor; Watch must run for as long as it is used.
func NewMonitor(c Config) *Monitor {
	m := &Monitor{
		store: c.Store, workers: c.Workers, self: c.Self, provider: c.Provider,
		recovered: c.Recovered, problems: c.Problems, audit: c.Audit, placement: c.Placement, log: c.Logger,
	}
	m.outages = &outages{monitor: m}
	return m
}

// Watch watches the store and the disk until ctx ends, and tells subscribers of what is wrong
// with them.
func (m *Monitor) Watch(ctx context.Context) { m.outages.run(ctx) }
