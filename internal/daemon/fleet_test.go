package daemon

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// fakeClient is a client of a worker of another machine.
type fakeClient struct {
	worker.Worker
	worker.Expirer
	url    string
	failed func(error) error
	broken atomic.Bool
	wary   atomic.Bool // it does not believe who calls
	closed atomic.Bool
}

func (f *fakeClient) Close() error { f.closed.Store(true); return nil }

func (f *fakeClient) Inventory(context.Context) (worker.Inventory, error) {
	if f.broken.Load() || f.closed.Load() {
		return worker.Inventory{}, f.failed(stacyvm.Errorf(stacyvm.CodeUnavailable, "gone"))
	}
	return worker.Inventory{}, nil
}

func (f *fakeClient) Guest(context.Context, stacyvm.Ref, guest.Scope) (guest.Conn, error) {
	if f.wary.Load() {
		return guest.Conn{}, f.failed(stacyvm.Errorf(stacyvm.CodeUnauthenticated, "who are you"))
	}
	return guest.Conn{}, f.failed(stacyvm.Errorf(stacyvm.CodeUnavailable, "gone"))
}

// fleetRig is a fleet over a real store, in a bubble.
type fleetRig struct {
	*testing.T
	*fleet
	away  atomic.Bool // the store does not answer
	reads atomic.Int64
	mu    sync.Mutex
	made  []*fakeClient
}

// countedStore counts reads and may be away.
type countedStore struct {
	store.Store
	rig *fleetRig
}

func (c countedStore) View(ctx context.Context, read func(store.Tx) error) error {
	c.rig.reads.Add(1)
	if c.rig.away.Load() {
		return stacyvm.Errorf(stacyvm.CodeUnavailable, "away")
	}
	return c.Store.View(ctx, read)
}

func withFleet(t *testing.T, test func(*fleetRig)) {
	synctest.Test(t, func(t *testing.T) {
		s, err := store.NewSQLiteStore(t.Context(), filepath.Join(t.TempDir(), "stacyvm.db"))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		r := &fleetRig{T: t}
		r.fleet = &fleet{self: "here", own: &fakeClient{url: "own"}, store: countedStore{s, r}, log: slog.New(slog.DiscardHandler)}
		r.dial = func(w stacyvm.Worker, onError func(error) error) (caller, error) {
			if w.Capacity.RPCURL == "bad" {
				return nil, stacyvm.Invalid("rpc_url", "is bad")
			}
			r.mu.Lock()
			defer r.mu.Unlock()
			made := &fakeClient{url: w.Capacity.RPCURL, failed: onError}
			r.made = append(r.made, made)
			return made, nil
		}
		test(r)
	})
}

func (r *fleetRig) register(id stacyvm.WorkerID, url string) {
	r.Helper()
	err := r.store.Update(r.Context(), func(tx store.Tx) error {
		_, err := tx.Workers().Save(r.Context(), stacyvm.Worker{ID: id, Status: "online", Capacity: stacyvm.Capacity{RPCURL: url}})
		return err
	})
	if err != nil {
		r.Fatal(err)
	}
}

func (r *fleetRig) forget(id stacyvm.WorkerID) {
	r.Helper()
	if err := r.store.Update(r.Context(), func(tx store.Tx) error { return tx.Workers().Delete(r.Context(), id) }); err != nil {
		r.Fatal(err)
	}
}

// find gives the client behind a worker.
func (r *fleetRig) find(id stacyvm.WorkerID) *fakeClient {
	r.Helper()
	w, err := r.worker(id)
	if err != nil {
		r.Fatalf("%s: %v", id, err)
	}
	return w.(*fakeClient)
}

func (r *fleetRig) absent(id stacyvm.WorkerID) {
	r.Helper()
	if w, err := r.worker(id); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
		r.Errorf("%s: %v, %v", id, w, err)
	}
}

func TestFleetFindsWorkers(t *testing.T) {
	withFleet(t, func(r *fleetRig) {
		if own, err := r.worker("here"); err != nil || own != r.own {
			r.Errorf("the own worker: %v, %v", own, err)
		}
		r.absent("nobody")
		r.register("mute", "")
		r.absent("mute")
		r.register("wrong", "bad")
		r.absent("wrong")
		r.register("far", "http://a")
		first := r.find("far")
		before := r.reads.Load()
		for range 100 {
			if r.find("far") != first {
				r.Error("another client for the same worker")
			}
		}
		if asked := r.reads.Load() - before; asked != 0 {
			r.Errorf("the store was asked %d times within %s", asked, addressLife)
		}
		r.register("wrong", "http://good")
		r.find("wrong")
	})
}

// TestFleetIsNotBelieved: a worker that refuses this server's credential is not there for its
// callers; theirs is good.
func TestFleetIsNotBelieved(t *testing.T) {
	withFleet(t, func(r *fleetRig) {
		r.register("far", "http://a")
		r.find("far").wary.Store(true)
		w, err := r.worker("far")
		if err != nil {
			r.Fatal(err)
		}
		if _, err := w.Guest(r.Context(), stacyvm.Ref{}, guest.ScopeExec); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
			r.Errorf("%v", err)
		}
	})
}

// TestFleetFollowsAnAddress: a new address counts when the old one is a while old, and at once
// when a call has failed.
func TestFleetFollowsAnAddress(t *testing.T) {
	withFleet(t, func(r *fleetRig) {
		r.register("far", "http://a")
		first := r.find("far")
		r.register("far", "http://b")
		if r.find("far") != first {
			r.Error("the store is asked at each call")
		}
		time.Sleep(addressLife)
		second := r.find("far")
		if second.url != "http://b" || !first.closed.Load() {
			r.Errorf("is called at %s, the old client closed: %v", second.url, first.closed.Load())
		}
		r.register("far", "http://c")
		second.broken.Store(true)
		time.Sleep(askAgain)
		w, err := r.worker("far")
		if err != nil {
			r.Fatal(err)
		}
		if _, err := w.Inventory(r.Context()); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
			r.Error(err)
		}
		third := r.find("far")
		if third.url != "http://c" {
			r.Errorf("is called at %s after a failure", third.url)
		}
		// A worker that is down is not looked up at each call, and its client stays: it may come
		// back.
		before := r.reads.Load()
		for range 100 {
			w, err := r.worker("far")
			if err != nil {
				r.Fatal(err)
			}
			_, _ = w.Guest(r.Context(), stacyvm.Ref{}, guest.ScopeExec)
		}
		if asked := r.reads.Load() - before; asked > 1 || r.find("far") != third {
			r.Errorf("the store was asked %d times for a worker that is down", asked)
		}
	})
}

// TestFleetWithoutTheStore: known workers can be called while the database is away.
func TestFleetWithoutTheStore(t *testing.T) {
	withFleet(t, func(r *fleetRig) {
		r.register("far", "http://a")
		first := r.find("far")
		r.away.Store(true)
		time.Sleep(2 * addressLife)
		before := r.reads.Load()
		for range 100 {
			if r.find("far") != first {
				r.Error("the known address is not used")
			}
			w, err := r.worker("far")
			if err != nil {
				r.Fatal(err)
			}
			_, _ = w.Guest(r.Context(), stacyvm.Ref{}, guest.ScopeExec) // fails
		}
		if asked := r.reads.Load() - before; asked > 2 {
			r.Errorf("the store that is away was asked %d times", asked)
		}
		r.absent("unknown")
		r.prune(r.Context())
		if first.closed.Load() {
			r.Error("a client was closed because the store is away")
		}
	})
}

// TestFleetClosesClients of workers that are gone, and all at its end.
func TestFleetClosesClients(t *testing.T) {
	withFleet(t, func(r *fleetRig) {
		for _, id := range []stacyvm.WorkerID{"gone", "mute", "asked", "stays"} {
			r.register(id, "http://"+string(id))
		}
		gone, mute, asked, stays := r.find("gone"), r.find("mute"), r.find("asked"), r.find("stays")
		r.forget("gone")
		r.forget("asked")
		r.register("mute", "")
		ctx, stop := context.WithCancel(r.Context())
		var running sync.WaitGroup
		running.Go(func() { _ = r.run(ctx) })
		time.Sleep(addressLife)
		r.absent("asked")
		if !asked.closed.Load() || gone.closed.Load() {
			r.Error("a worker that was asked for is not looked up by itself")
		}
		time.Sleep(pruneEvery)
		synctest.Wait()
		if !gone.closed.Load() || !mute.closed.Load() || stays.closed.Load() {
			r.Error("the wrong clients are closed")
		}
		stop()
		running.Wait()
		r.close()
		if !stays.closed.Load() {
			r.Error("a client outlived the fleet")
		}
		r.absent("stays")
	})
}
