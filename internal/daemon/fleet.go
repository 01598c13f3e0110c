package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

const (
	// addressLife is how long a worker's address may be used without asking the store.
	addressLife = 10 * time.Second
	// askAgain is how soon after one look at the store a call that fails makes another.
	askAgain = time.Second
	// lookWithin bounds such a look.
	lookWithin = 3 * time.Second
	// pruneEvery is how often clients of workers that are gone are looked for.
	pruneEvery = 30 * time.Second
)

// caller is a worker on another machine.
type caller interface {
	worker.Worker
	worker.Expirer
	Close() error
}

// fleet finds workers: the one in this process, and those of other machines under the address that
// they registered. While the store is away the last known addresses are good.
type fleet struct {
	self  stacyvm.WorkerID
	own   worker.Worker // nil: none in this process
	store store.Store
	dial  func(w stacyvm.Worker, onError func(error) error) (caller, error) // makes a client; it does not call
	log   *slog.Logger

	mu     sync.Mutex
	known  map[stacyvm.WorkerID]*clientEntry
	closed bool
}

// clientEntry is one worker of another machine as this process knows it.
type clientEntry struct {
	id      stacyvm.WorkerID
	suspect atomic.Bool // a call failed: its address may be another now

	mu     sync.Mutex // held over a look at the store
	client caller     // nil: none
	url    string     // of client
	good   time.Time  // until when the address is good; monotonic
	rests  time.Time  // until when it is not looked at again, whatever happens
	away   error      // of the last look, when the store did not answer and there is no client
}

// worker finds one by its id. CodeUnavailable: it is not registered, has no address, or must not
// be called under it.
func (f *fleet) worker(id stacyvm.WorkerID) (worker.Worker, error) {
	if id == f.self && f.own != nil {
		return f.own, nil
	}
	e, err := f.entry(id)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if now := time.Now(); e.client != nil && (now.Before(e.rests) || now.Before(e.good) && !e.suspect.Load()) {
		return e.client, nil
	}
	if e.away != nil && time.Now().Before(e.rests) {
		return nil, e.away // who waited in line for a look that took its whole time does not make another
	}
	e.away = nil
	if err := f.look(e); err != nil {
		return nil, err
	}
	return e.client, nil
}

func (f *fleet) entry(id stacyvm.WorkerID) (*clientEntry, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, stacyvm.Errorf(stacyvm.CodeUnavailable, "the server is stopping")
	}
	if f.known[id] == nil {
		if f.known == nil {
			f.known = map[stacyvm.WorkerID]*clientEntry{}
		}
		f.known[id] = &clientEntry{id: id}
	}
	return f.known[id], nil
}

// look reads a worker's address and makes its client anew when it changed; e.mu is held.
func (f *fleet) look(e *clientEntry) error {
	row, err := f.read(e.id)
	switch {
	case stacyvm.CodeOf(err) == stacyvm.CodeNotFound:
		e.drop()
		return stacyvm.Errorf(stacyvm.CodeUnavailable, "worker %.64q is not registered", e.id)
	case err != nil && e.client != nil:
		e.rests = time.Now().Add(askAgain) // the last known address will do for a moment
		return nil
	case err != nil:
		e.rests = time.Now().Add(askAgain)
		e.away = stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the worker's address is not known now")
		return e.away
	case row.Capacity.RPCURL == "":
		e.drop()
		return stacyvm.Errorf(
			stacyvm.CodeUnavailable,
			"worker %s is inside another server, which alone reaches its sandboxes: it has no RPC address",
			e.id,
		)
	}
	e.rests, e.good = time.Now().Add(askAgain), time.Now().Add(addressLife)
	e.suspect.Store(false)
	if e.client != nil && e.url == row.Capacity.RPCURL {
		return nil
	}
	e.drop()
	client, err := f.dial(row, e.failed)
	if err != nil {
		f.log.Warn("a worker cannot be called", "worker", e.id, "rpc_url", row.Capacity.RPCURL, "error", err)
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the worker cannot be called under its address")
	}
	e.client, e.url = client, row.Capacity.RPCURL
	return nil
}

func (f *fleet) read(id stacyvm.WorkerID) (row stacyvm.Worker, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookWithin)
	defer cancel()
	err = f.store.View(ctx, func(tx store.Tx) error {
		row, err = tx.Workers().Get(ctx, id)
		return err
	})
	return row, err
}

// drop closes the client, if there is one; e.mu is held.
func (e *clientEntry) drop() {
	if e.client != nil {
		_ = e.client.Close() // it only cuts connections
	}
	e.client, e.url = nil, ""
}

// run closes clients of workers that are gone, until ctx ends.
func (f *fleet) run(ctx context.Context) error {
	ticks := time.NewTicker(pruneEvery)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return nil
		}
		f.prune(ctx)
	}
}

// prune drops the clients of workers that are not registered any more; none when the store does
// not answer.
func (f *fleet) prune(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	registered := map[stacyvm.WorkerID]bool{}
	err := f.store.View(ctx, func(tx store.Tx) error {
		workers, err := tx.Workers().List(ctx, store.Page{})
		for _, w := range workers {
			registered[w.ID] = w.Capacity.RPCURL != ""
		}
		return err
	})
	if err != nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, e := range f.known {
		if !registered[id] && e.mu.TryLock() { // who holds it finds out by itself
			e.drop()
			e.mu.Unlock()
			delete(f.known, id)
		}
	}
}

// close cuts all calls and makes no new ones.
func (f *fleet) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, e := range f.known {
		e.mu.Lock()
		e.drop()
		e.mu.Unlock()
	}
}

// failed is the OnError of the worker's client: after a failure the next call looks at the store.
func (e *clientEntry) failed(err error) error {
	code := stacyvm.CodeOf(err)
	if code == stacyvm.CodeUnavailable || code == stacyvm.CodeUnauthenticated ||
		errors.Is(err, context.DeadlineExceeded) {
		e.suspect.Store(true)
	}
	if code == stacyvm.CodeUnauthenticated { // of this server: whoever asked it has shown what it must
		return stacyvm.Wrap(
			stacyvm.CodeUnavailable,
			err,
			fmt.Sprintf("worker %s does not accept this control plane's credential", e.id),
		)
	}
	return err
}
