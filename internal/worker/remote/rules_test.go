package remote_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
	"github.com/stacyvm/stacyvm/internal/worker/remote"
)

// watched notes the refs that reach a worker.
type watched struct {
	worker.Worker
	mu   sync.Mutex
	refs []stacyvm.Ref
}

func (w *watched) note(ref stacyvm.Ref) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.refs = append(w.refs, ref)
}

func (w *watched) seen(ref stacyvm.Ref) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.refs, ref)
}

func (w *watched) Create(ctx context.Context, ref stacyvm.Ref, r worker.CreateRequest) (worker.Created, error) {
	w.note(ref)
	return w.Worker.Create(ctx, ref, r)
}

func (w *watched) Destroy(ctx context.Context, ref stacyvm.Ref) error {
	w.note(ref)
	return w.Worker.Destroy(ctx, ref)
}

func (w *watched) Guest(ctx context.Context, ref stacyvm.Ref, scope guest.Scope) (guest.Conn, error) {
	w.note(ref)
	return w.Worker.Guest(ctx, ref, scope)
}

func (w *watched) DialPort(ctx context.Context, ref stacyvm.Ref, port uint16) (net.Conn, error) {
	w.note(ref)
	return w.Worker.DialPort(ctx, ref, port)
}

// mutating are the calls that act for a sandbox. Each begins one; a port's ends with the port that
// nobody listens on.
func mutating(t *testing.T, w worker.Worker, ref stacyvm.Ref) map[string]error {
	t.Helper()
	found := map[string]error{}
	_, found["create"] = w.Create(t.Context(), ref, request())
	_, found["guest"] = w.Guest(t.Context(), ref, guest.ScopeExec)
	_, found["port"] = w.DialPort(t.Context(), ref, 1)
	found["destroy"] = w.Destroy(t.Context(), ref)
	return found
}

// TestGate: a worker that may not act any more begins nothing, not even on connections of before,
// and still tells what it has.
func TestGate(t *testing.T) {
	far := openLocal(t)
	seen := &watched{Worker: far.worker}
	var closed atomic.Bool
	client, _ := overMTLS(t).connect(t, seen, func(c *remote.ServerConfig) {
		c.Gate = func() error {
			if closed.Load() {
				return stacyvm.Errorf(stacyvm.CodeLeaseLost, "the worker's leases ran out")
			}
			return nil
		}
	})
	ref := fresh()
	create(t, client, ref)
	conn, err := client.Guest(t.Context(), ref, guest.ScopeExec)
	if err != nil {
		t.Fatal(err)
	}
	before := guest.NewClient(conn)
	if _, err := before.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
	closed.Store(true)
	seen.refs = nil
	_, err = before.Start(t.Context(), stacyvm.Command{Argv: []string{"/bin/true"}})
	wantCode(t, "start", err, stacyvm.CodeLeaseLost)
	for what, err := range mutating(t, client, ref) {
		wantCode(t, what, err, stacyvm.CodeLeaseLost)
	}
	if len(seen.refs) > 0 {
		t.Errorf("calls reached the worker: %v", seen.refs)
	}
	if inventory, err := client.Inventory(t.Context()); err != nil || len(inventory.Runtimes) != 1 {
		t.Errorf("inventory: %+v, %v", inventory, err)
	}
	if providers, err := client.Providers(t.Context()); err != nil || len(providers) != 1 {
		t.Errorf("providers: %+v, %v", providers, err)
	}
	closed.Store(false)
	if _, err := before.Ping(t.Context()); err != nil {
		t.Errorf("the gate is open again: %v", err)
	}
}

// TestConfirm: a fence that is higher than any before is asked for once; a refused one never
// reaches the worker.
func TestConfirm(t *testing.T) {
	far := openLocal(t)
	seen := &watched{Worker: far.worker}
	asked := map[stacyvm.Ref]int{}
	var mu sync.Mutex
	answer := func(stacyvm.Ref) error { return nil }
	client, _ := overTokens(t).connect(t, seen, func(c *remote.ServerConfig) {
		c.Confirm = func(_ context.Context, ref stacyvm.Ref) error {
			mu.Lock()
			defer mu.Unlock()
			asked[ref]++
			return answer(ref)
		}
	})
	says := func(f func(stacyvm.Ref) error) {
		mu.Lock()
		defer mu.Unlock()
		answer = f
	}
	times := func(ref stacyvm.Ref) int {
		mu.Lock()
		defer mu.Unlock()
		return asked[ref]
	}
	id := stacyvm.NewSandboxID()
	create(t, client, at(id, 1))
	var calls sync.WaitGroup
	for range 16 {
		calls.Go(func() {
			if _, err := client.Guest(t.Context(), at(id, 2), guest.ScopeExec); err != nil {
				t.Errorf("guest: %v", err)
			}
		})
	}
	calls.Wait()
	if times(at(id, 1)) != 1 || times(at(id, 2)) != 1 {
		t.Errorf("asked %v", asked)
	}
	for what, err := range mutating(t, client, at(id, 1)) {
		wantCode(t, what+" with an older fence", err, stacyvm.CodeStaleEpoch)
	}
	if times(at(id, 1)) != 1 {
		t.Error("an older fence was asked for again")
	}
	for name, c := range map[string]struct{ says, want stacyvm.Code }{
		"not the holder": {stacyvm.CodeNotFound, stacyvm.CodeStaleEpoch},
		"a newer epoch":  {stacyvm.CodeStaleEpoch, stacyvm.CodeStaleEpoch},
		"no answer":      {stacyvm.CodeUnavailable, stacyvm.CodeUnavailable},
		"out of time":    {stacyvm.CodeTimeout, stacyvm.CodeTimeout},
	} {
		says(func(stacyvm.Ref) error { return stacyvm.Wrap(c.says, errors.New("a secret cause"), name) })
		forged := at(id, 99)
		for what, err := range mutating(t, client, forged) {
			wantCode(t, name+": "+what, err, c.want)
			secretFree(t, err, "a secret cause")
		}
		if seen.seen(forged) {
			t.Errorf("%s: a fence that is not confirmed reached the worker", name)
		}
	}
	says(func(stacyvm.Ref) error { return nil })
	if _, err := client.Guest(t.Context(), at(id, 2), guest.ScopeExec); err != nil {
		t.Errorf("the owner after the forged calls: %v", err)
	}
	if err := client.Destroy(t.Context(), at(id, 2)); err != nil {
		t.Fatal(err)
	}
}

// TestConfirmLeft: who stops waiting for an answer does not answer for the others.
func TestConfirmLeft(t *testing.T) {
	far := openLocal(t)
	asking, answer := make(chan struct{}, 2), make(chan struct{})
	client, _ := overTokens(t).connect(t, far.worker, func(c *remote.ServerConfig) {
		c.Confirm = func(ctx context.Context, _ stacyvm.Ref) error {
			asking <- struct{}{}
			select {
			case <-answer:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	ref := fresh()
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { first <- client.Destroy(ctx, ref) }()
	<-asking
	second := make(chan error, 1)
	go func() { second <- client.Destroy(t.Context(), ref) }()
	cancel()
	wantCode(t, "who left", <-first, stacyvm.CodeUnavailable)
	<-asking
	close(answer)
	if err := <-second; err != nil {
		t.Errorf("who stayed: %v", err)
	}
}

// TestDraining: a worker that drains takes no new sandboxes and serves those that it has.
func TestDraining(t *testing.T) {
	far := openLocal(t)
	var draining atomic.Bool
	client, _ := overTokens(t).connect(t, far.worker, func(c *remote.ServerConfig) { c.Draining = draining.Load })
	ref := fresh()
	create(t, client, ref)
	draining.Store(true)
	_, err := client.Create(t.Context(), fresh(), request())
	wantCode(t, "create", err, stacyvm.CodeUnavailable)
	if conn, err := client.Guest(t.Context(), ref, guest.ScopeExec); err != nil {
		t.Error(err)
	} else if _, err := guest.NewClient(conn).Ping(t.Context()); err != nil {
		t.Error(err)
	}
	if err := client.Destroy(t.Context(), ref); err != nil {
		t.Error(err)
	}
}
