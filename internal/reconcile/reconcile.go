// Package reconcile makes true what the store says, for the sandboxes of this process's worker: it renews leases, ends
// what has expired, finishes what a crash interrupted and tells what it finds lost. It is the only place with recovery
// code. It knows the store and the worker through their ports; it knows no transport, no SQL and no engine.
//
// It decides from complete inventories only, and a runtime is destroyed for lack of an owner only after two sightings.
package reconcile

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

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
)

// The bounds of one step, and of one worker call in it.
const (
	stepWithin    = 2 * time.Minute
	renewWithin   = 5 * time.Second
	destroyWithin = 30 * time.Second
)

// parallel is how many worker calls a step makes at once.
const parallel = 8

// Config is what a Reconciler is made from.
type Config struct {
	Store    store.Store
	Worker   worker.Worker    // the one in this process
	Self     stacyvm.WorkerID // its id
	Session  string           // random per process
	Hostname string
	Capacity stacyvm.Capacity
	Logger   *slog.Logger
}

// Reconciler owns the loops of one worker. Its steps may also be called singly, each by one caller at a time.
type Reconciler struct {
	store    store.Store
	worker   worker.Worker
	self     stacyvm.WorkerID
	session  string
	hostname string
	capacity stacyvm.Capacity
	log      *slog.Logger

	start   sync.Once
	started chan struct{} // closed once the first pass over the rows is done

	// interrupted holds creates of an earlier process; those of this one are in good hands. Written by Start, then used by
	// Recover alone.
	interrupted map[stacyvm.SandboxID]bool
	// sighted holds what the last complete pass of Recover would have done after one more sighting.
	sighted map[sighting]bool
	// settling is until when the database settles, as Recover last saw it; zero: it does not.
	settling time.Time
}

// New makes a reconciler; nothing happens before Run or a step.
func New(config Config) *Reconciler {
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	return &Reconciler{
		store:       config.Store,
		worker:      config.Worker,
		self:        config.Self,
		session:     config.Session,
		hostname:    config.Hostname,
		capacity:    config.Capacity,
		log:         config.Logger,
		started:     make(chan struct{}),
		interrupted: map[stacyvm.SandboxID]bool{},
		sighted:     map[sighting]bool{},
	}
}

// Recovered reports whether the first pass over the rows is done. Requests may be served from then on.
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

// Run registers the worker, takes its sandboxes over from an earlier process, and keeps all loops going until ctx ends.
func (r *Reconciler) Run(ctx context.Context) error {
	for r.attempt(ctx, "start", stepWithin, r.Start) != nil {
		if !wait(ctx, startAgain) {
			return nil
		}
	}
	var loops sync.WaitGroup
	defer loops.Wait()
	loop := func(name string, every, within time.Duration, step func(context.Context) error) {
		loops.Go(func() {
			for wait(ctx, jittered(every)) {
				_ = r.attempt(ctx, name, within, step) // logged; the next round tries again
			}
		})
	}
	loop("renew", stacyvm.LeaseRenewEvery, renewWithin, r.Renew)
	loop("reap", reapEvery, stepWithin, r.Reap)
	loop("heartbeat", heartbeatEvery, stepWithin, r.Heartbeat)
	loop("stale", heartbeatEvery, stepWithin, r.Stale)
	loop("purge", purgeEvery, stepWithin, r.Purge)
	_ = r.attempt(ctx, "recover", stepWithin, r.Recover)
	loop("recover", recoverEvery, stepWithin, r.Recover)
	<-ctx.Done()
	return nil
}

// attempt runs one step within its time and logs how it failed.
func (r *Reconciler) attempt(ctx context.Context, name string, within time.Duration, step func(context.Context) error) error {
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	err := step(bounded)
	if err != nil && ctx.Err() == nil {
		r.log.Warn("reconcile step failed", "step", name, "error", err)
	}
	return err
}

// jittered spreads the steps of several processes: ±10 %.
func jittered(d time.Duration) time.Duration {
	return d - d/10 + rand.N(d/5)
}

// wait reports whether the pause passed before ctx ended.
func wait(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// each calls do for every item, a few at a time, and logs what fails.
func each[T any](ctx context.Context, r *Reconciler, items []T, do func(context.Context, T) error) {
	var calls sync.WaitGroup
	room := make(chan struct{}, parallel)
	for _, item := range items {
		room <- struct{}{}
		calls.Go(func() {
			defer func() { <-room }()
			if err := do(ctx, item); err != nil && ctx.Err() == nil {
				r.log.Warn("reconcile", "error", err)
			}
		})
	}
	calls.Wait()
}
