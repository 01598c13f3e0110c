package reconcile

import (
	"context"
	"sync"

	"github.com/stacyvm/stacyvm/internal/lease"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// capabilities is what a worker in a control plane can do.
var capabilities = []string{"api", stacyvm.CapabilityResident, "spawn", "exec", "files"}

// localWorker is the worker in this process: it is registered, its leases are renewed and its life
// is told here. (A worker on another machine does so itself, through the API.)
type localWorker struct {
	*machine
	hostname string
	capacity stacyvm.Capacity
}

func newLocalWorker(p process, config Config) *localWorker {
	r := &localWorker{machine: newMachine(p, p.self), hostname: config.Hostname, capacity: config.Capacity}
	r.reach = func() (worker.Worker, error) { return config.Worker, nil }
	r.registered = func(context.Context, store.Tx) (string, error) { return p.session, nil }
	return r
}

// run starts and keeps all loops of this worker going until ctx ends. started is called after the
// first pass over the rows.
func (r *localWorker) run(ctx context.Context, started func()) {
	if !r.until(ctx, "start", stepWithin, r.Start) {
		return
	}
	// what expired while no server ran is not shown as running; the loop tries again
	_ = r.attempt(ctx, "reap", firstReapWithin, r.Reap)
	started()
	var loops sync.WaitGroup
	defer loops.Wait()
	loops.Go(func() { r.keepUp(ctx, "renew", stepWithin, r.Renew) })
	loops.Go(func() { r.loop(ctx, "reap", reapEvery, stepWithin, r.Reap) })
	loops.Go(func() { r.loop(ctx, "heartbeat", heartbeatEvery, stepWithin, r.Heartbeat) })
	_ = r.attempt(ctx, "recover", stepWithin, r.Recover) // logged; the loop tries again
	r.loop(ctx, "recover", recoverEvery, stepWithin, r.Recover)
}

// Start registers this process as its worker's present session and takes the worker's sandboxes
// over.
func (r *localWorker) Start(ctx context.Context) error {
	if err := r.register(ctx, false); err != nil {
		return err
	}
	if _, err := r.settlesAt(ctx); err != nil { // before anything is reaped or taken over
		return err
	}
	rows, err := r.claim(ctx)
	if err != nil {
		return err
	}
	for _, row := range rows {
		if row.State == stacyvm.StateCreating { // creates of this process are in good hands
			r.interrupted[row.ID] = true
		}
	}
	return nil
}

// Heartbeat tells that this worker lives. It leaves a status alone that an operator has set.
func (r *localWorker) Heartbeat(ctx context.Context) error { return r.register(ctx, true) }

// register writes the worker's record, with the status that it had where that is to be kept.
func (r *localWorker) register(ctx context.Context, keep bool) error {
	own, err := r.reach()
	if err != nil {
		return err
	}
	providers, err := own.Providers(ctx)
	if err != nil {
		return err
	}
	names := make([]string, len(providers))
	for i, p := range providers {
		names[i] = p.Name
	}
	return r.store.Update(ctx, func(tx store.Tx) error {
		record := stacyvm.Worker{
			ID: r.self, Hostname: r.hostname, Status: stacyvm.WorkerOnline, Session: r.session,
			Providers: names, Capabilities: capabilities, Capacity: r.capacity,
		}
		known, err := tx.Workers().Hold(ctx, r.self)
		switch {
		case stacyvm.CodeOf(err) == stacyvm.CodeNotFound:
		case err != nil:
			return err
		case keep:
			record.Status = known.Status
		case known.Capacity.Drained: // what an operator wants lasts over a restart
			record.Status = stacyvm.WorkerDraining
		}
		record.Capacity.Drained = known.Capacity.Drained
		_, err = tx.Workers().Save(ctx, record)
		return err
	})
}

// Renew extends the leases of this session in one statement, and takes those again that ran out
// meanwhile, until it has all.
func (r *localWorker) Renew(ctx context.Context) error {
	holder := lease.Holder{Worker: r.self, Session: r.session}
	for {
		round, cancel := context.WithTimeout(ctx, renewWithin)
		renewed, err := holder.Renew(
			round,
			r.store,
			func(context.Context, store.Tx) error { return nil },
			stacyvm.LeaseTTL,
			regainWithin,
		)
		cancel()
		if err != nil || renewed.Lapsed == 0 {
			return err
		}
	}
}
