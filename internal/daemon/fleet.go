package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stacyvm/stacyvm/internal/guest"
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
	// musterEvery is how often clients of workers that are gone are looked for.
	musterEvery = 30 * time.Second
)

// caller is a worker on another machine.
type caller interface {
	worker.Worker
	worker.Expirer
	Close() error
}

// fleet finds workers: the one in this process, and those of other machines under the address that they registered. While the
// store is away the last known addresses are good.
type fleet struct {
	self  stacyvm.WorkerID
	own   worker.Worker // nil: none in this process
	store store.Store
	dial  func(stacyvm.Worker) (caller, error) // makes a client; it does not call
	log   *slog.Logger

	mu     sync.Mutex
	known  map[stacyvm.WorkerID]*berth
	closed bool
}

// berth is one worker of another machine as this process knows it.
type berth struct {
	id      stacyvm.WorkerID
	suspect atomic.Bool // a call failed: its address may be another now

	mu     sync.Mutex // held over a look at the store
	client caller     // nil: none
	url    string     // of client
	good   time.Time  // until when the address is good; monotonic
	rests  time.Time  // until when it is not looked at again, whatever happens
	away   error      // of the last look, when the store did not answer and there is no client
}

// worker finds one by its id. CodeUnavailable: it is not registered, has no address, or must not be called under it.
func (f *fleet) worker(id stacyvm.WorkerID) (worker.Worker, error) {
	if id == f.self && f.own != nil {
		return f.own, nil
	}
	b, err := f.berth(id)
	if err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if now := time.Now(); b.client != nil && (now.Before(b.rests) || now.Before(b.good) && !b.suspect.Load()) {
		return watched{b.client, b}, nil
	}
	if b.away != nil && time.Now().Before(b.rests) {
		return nil, b.away // who waited in line for a look that took its whole time does not make another
	}
	b.away = nil
	if err := f.look(b); err != nil {
		return nil, err
	}
	return watched{b.client, b}, nil
}

func (f *fleet) berth(id stacyvm.WorkerID) (*berth, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil, stacyvm.Errorf(stacyvm.CodeUnavailable, "the server is stopping")
	}
	if f.known[id] == nil {
		if f.known == nil {
			f.known = map[stacyvm.WorkerID]*berth{}
		}
		f.known[id] = &berth{id: id}
	}
	return f.known[id], nil
}

// look reads a worker's address and makes its client anew when it changed; b.mu is held.
func (f *fleet) look(b *berth) error {
	row, err := f.read(b.id)
	switch {
	case stacyvm.CodeOf(err) == stacyvm.CodeNotFound:
		b.drop()
		return stacyvm.Errorf(stacyvm.CodeUnavailable, "worker %.64q is not registered", b.id)
	case err != nil && b.client != nil:
		b.rests = time.Now().Add(askAgain) // the last known address will do for a moment
		return nil
	case err != nil:
		b.rests = time.Now().Add(askAgain)
		b.away = stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the worker's address is not known now")
		return b.away
	case row.Capacity.RPCURL == "":
		b.drop()
		return stacyvm.Errorf(stacyvm.CodeUnavailable, "worker %s is inside another server, which alone reaches its sandboxes: it has no RPC address", b.id)
	}
	b.rests, b.good = time.Now().Add(askAgain), time.Now().Add(addressLife)
	b.suspect.Store(false)
	if b.client != nil && b.url == row.Capacity.RPCURL {
		return nil
	}
	b.drop()
	client, err := f.dial(row)
	if err != nil {
		f.log.Warn("a worker cannot be called", "worker", b.id, "rpc_url", row.Capacity.RPCURL, "error", err)
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the worker cannot be called under its address")
	}
	b.client, b.url = client, row.Capacity.RPCURL
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

// drop closes the client, if there is one; b.mu is held.
func (b *berth) drop() {
	if b.client != nil {
		_ = b.client.Close() // it only cuts connections
	}
	b.client, b.url = nil, ""
}

// run closes clients of workers that are gone, until ctx ends.
func (f *fleet) run(ctx context.Context) error {
	ticks := time.NewTicker(musterEvery)
	defer ticks.Stop()
	for {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return nil
		}
		f.muster(ctx)
	}
}

// muster drops who is not registered any more. When the store does not answer nobody is.
func (f *fleet) muster(ctx context.Context) {
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
	for id, b := range f.known {
		if !registered[id] && b.mu.TryLock() { // who holds it finds out by itself
			b.drop()
			b.mu.Unlock()
			delete(f.known, id)
		}
	}
}

// close cuts all calls and makes no new ones.
func (f *fleet) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, b := range f.known {
		b.mu.Lock()
		b.drop()
		b.mu.Unlock()
	}
}

// watched is a client whose failures make the next call look at the store.
type watched struct {
	caller
	berth *berth
}

func (w watched) note(err error) error {
	code := stacyvm.CodeOf(err)
	if code == stacyvm.CodeUnavailable || code == stacyvm.CodeUnauthenticated || errors.Is(err, context.DeadlineExceeded) {
		w.berth.suspect.Store(true)
	}
	if code == stacyvm.CodeUnauthenticated { // of this server: whoever asked it has shown what it must
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, fmt.Sprintf("worker %s does not accept this control plane's credential", w.berth.id))
	}
	return err
}

// Create implements worker.Worker.
func (w watched) Create(ctx context.Context, ref stacyvm.Ref, request worker.CreateRequest) (worker.Created, error) {
	created, err := w.caller.Create(ctx, ref, request)
	return created, w.note(err)
}

// Destroy implements worker.Worker.
func (w watched) Destroy(ctx context.Context, ref stacyvm.Ref) error {
	return w.note(w.caller.Destroy(ctx, ref))
}

// Expire implements worker.Expirer.
func (w watched) Expire(ctx context.Context, ref stacyvm.Ref, at time.Time) error {
	return w.note(w.caller.Expire(ctx, ref, at))
}

// Inventory implements worker.Worker.
func (w watched) Inventory(ctx context.Context) (worker.Inventory, error) {
	inventory, err := w.caller.Inventory(ctx)
	return inventory, w.note(err)
}

// Guest implements worker.Worker.
func (w watched) Guest(ctx context.Context, ref stacyvm.Ref, scope guest.Scope) (guest.Conn, error) {
	conn, err := w.caller.Guest(ctx, ref, scope)
	return conn, w.note(err)
}

// DialPort implements worker.Worker.
func (w watched) DialPort(ctx context.Context, ref stacyvm.Ref, port uint16) (net.Conn, error) {
	conn, err := w.caller.DialPort(ctx, ref, port)
	return conn, w.note(err)
}

// Providers implements worker.Worker.
func (w watched) Providers(ctx context.Context) ([]worker.Provider, error) {
	providers, err := w.caller.Providers(ctx)
	return providers, w.note(err)
}
