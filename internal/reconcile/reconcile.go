// Package reconcile makes true what the store says: it renews leases, ends what has expired,
// finishes what a crash interrupted and tells what it finds lost. It is the only place with
// recovery code. It knows the store and the workers through their ports; it knows no transport, no
// SQL and no engine.
//
// What one worker's sandboxes need is a machine's work (Reap and Recover), wherever the worker is.
// The worker of this process is local: its leases are renewed and its life is told here. Workers
// on other machines, and what is done once for the whole cluster, are duties: each has a lease,
// and the process that holds it does it.
//
// Decisions are made from complete inventories only, and a runtime is destroyed for lack of an
// owner only after two sightings.
package reconcile

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// The pauses between steps.
const (
	reapEvery      = 2 * time.Second
	recoverEvery   = 15 * time.Second
	heartbeatEvery = 30 * time.Second
	purgeEvery     = time.Hour
	startAgain     = time.Second
	renewAgain     = 2 * time.Second // after a renewal that failed
)

// The bounds of one step, and of one worker call in it.
const (
	stepWithin      = 2 * time.Minute
	firstReapWithin = 3 * time.Second // requests wait for it
	renewWithin     = 5 * time.Second
	regainWithin    = 2 * time.Second // of renewWithin, for leases that ran out
	destroyWithin   = 30 * time.Second
	inventoryWithin = time.Minute
)

// parallel is how many worker calls a step makes at once.
const parallel = 8

// Config is what a Reconciler is made from.
type Config struct {
	Store    store.Store
	Self     stacyvm.WorkerID // of this process and of the worker in it; holds its leases
	Session  string           // random per process
	Worker   worker.Worker    // the one in this process; nil: none
	Hostname string           // of Worker
	Capacity stacyvm.Capacity // of Worker
	// Workers finds the workers of other machines. CodeUnavailable: it cannot be called. nil:
	// there are none.
	Workers func(stacyvm.WorkerID) (worker.Worker, error)
	// AuditRetention is how long calls of administrators are kept; 0: for ever.
	AuditRetention time.Duration
	Logger         *slog.Logger
}

// Reconciler owns the loops of one process. The steps of its parts may also be called singly, each
// by one caller at a time.
type Reconciler struct {
	*localWorker // nil without a worker in this process
	*duties

	start   sync.Once
	started chan struct{}
}

// process is who acts.
type process struct {
	store   store.Store
	self    stacyvm.WorkerID
	session string
	log     *slog.Logger
}

// New makes a reconciler; nothing happens before Run or a step.
func New(config Config) *Reconciler {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	p := process{store: config.Store, self: config.Self, session: config.Session, log: config.Logger}
	r := &Reconciler{duties: newDuties(p, config), started: make(chan struct{})}
	if config.Worker != nil {
		r.localWorker = newLocalWorker(p, config)
	}
	return r
}

// Recovered reports whether this process's first pass over its rows is done. Requests may be
// served from then on.
func (r *Reconciler) Recovered() bool {
	select {
	case <-r.started:
		return true
	default:
		return false
	}
}

// Started is closed when Recovered becomes true.
func (r *Reconciler) Started() <-chan struct{} { return r.started }

// Run keeps all loops going until ctx ends, and then lets go of its duties. Sandboxes' leases stay
// with their workers.
func (r *Reconciler) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	if r.localWorker != nil {
		parts.Go(func() { r.localWorker.run(ctx, r.recovered) })
		parts.Go(func() { r.duties.run(ctx, func() {}) })
	} else {
		parts.Go(func() { r.duties.run(ctx, r.recovered) })
	}
	parts.Wait()
	return nil
}

// Start is the local worker's, and tells that it is done.
func (r *Reconciler) Start(ctx context.Context) error {
	err := r.localWorker.Start(ctx)
	if err == nil {
		r.recovered()
	}
	return err
}

func (r *Reconciler) recovered() { r.start.Do(func() { close(r.started) }) }

// settlesAt gives until when a database that was put back lately is not believed; zero: it is.
func (p process) settlesAt(ctx context.Context) (time.Time, error) {
	return store.RestoreGraceUntil(ctx, p.store, p.self, p.session)
}

// until tries a step again and again; false: ctx ended first.
func (p process) until(ctx context.Context, name string, within time.Duration, step func(context.Context) error) bool {
	for p.attempt(ctx, name, within, step) != nil {
		if retry.Sleep(ctx, startAgain) != nil {
			return false
		}
	}
	return true
}

// loop repeats a step until ctx ends.
func (p process) loop(
	ctx context.Context,
	name string,
	every, within time.Duration,
	step func(context.Context) error,
) {
	for retry.Sleep(ctx, retry.Jitter(every)) == nil {
		_ = p.attempt(ctx, name, within, step) // logged; the next round tries again
	}
}

// keepUp repeats a step that renews leases until ctx ends. After a failure it tries again soon,
// because leases run out, and tells of the first failure alone.
func (p process) keepUp(ctx context.Context, name string, within time.Duration, step func(context.Context) error) {
	failing, pause := false, stacyvm.LeaseRenewEvery
	for retry.Sleep(ctx, retry.Jitter(pause)) == nil {
		bounded, cancel := context.WithTimeout(ctx, within)
		err := step(bounded)
		cancel()
		switch {
		case err != nil && ctx.Err() == nil && !failing:
			p.log.Warn("reconcile step failed; trying again", "step", name, "error", err)
		case err == nil && failing:
			p.log.Info("reconcile step succeeds again", "step", name)
		}
		failing, pause = err != nil, stacyvm.LeaseRenewEvery
		if failing {
			pause = renewAgain
		}
	}
}

// attempt runs one step within its time and logs how it failed.
func (p process) attempt(
	ctx context.Context,
	name string,
	within time.Duration,
	step func(context.Context) error,
) error {
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err := step(bounded)
	if err != nil && ctx.Err() == nil {
		p.log.Warn("reconcile step failed", "step", name, "error", err)
	}
	return err
}

// each calls do for every item, a few at a time, and logs what fails.
func each[T any](ctx context.Context, log *slog.Logger, items []T, do func(context.Context, T) error) {
	var calls sync.WaitGroup
	room := make(chan struct{}, parallel)
	for _, item := range items {
		room <- struct{}{}
		calls.Go(func() {
			defer func() { <-room }()
			if err := do(ctx, item); err != nil && ctx.Err() == nil {
				log.Warn("reconcile", "error", err)
			}
		})
	}
	calls.Wait()
}

// list reads sandboxes.
func list(ctx context.Context, s store.Store, filter store.SandboxFilter) (rows []stacyvm.Sandbox, err error) {
	err = s.View(ctx, func(tx store.Tx) error {
		rows, err = tx.Sandboxes().List(ctx, filter)
		return err
	})
	return rows, err
}
