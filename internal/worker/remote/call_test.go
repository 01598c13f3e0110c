package remote_test

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/testneed"
	"github.com/stacyvm/stacyvm/internal/worker"
	"github.com/stacyvm/stacyvm/internal/worker/remote"
)

// TestNoSignOfLife: a call to a worker that says nothing at all ends, and its error says why;
// TestSilenceEndsACall has the time. What is under way is not touched, and goes on when the worker
// is back.
func TestNoSignOfLife(t *testing.T) {
	testneed.Patience(t)
	t.Parallel()
	far := openLocal(t)
	tr := overMTLS(t)
	_, l := tr.connect(t, far.worker, nil)
	network := between(t, l.address, 0)
	client, unused := tr.dial(t, "https://"+network.address()), tr.dial(t, "https://"+network.address())
	ref := fresh()
	create(t, client, ref)
	exec := reach(t, client, ref, guest.ScopeExec)
	started, err := exec.Start(t.Context(), stacyvm.Command{Argv: []string{"/bin/sh", "-c", "read word; exit 3"}, Stdin: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := reach(t, client, ref, guest.ScopeFiles).StatFile(t.Context(), "/workspace"); err != nil {
		t.Fatal(err) // the wait's connection is there
	}
	waiting := make(chan error, 1)
	go func() {
		ended, err := exec.Wait(t.Context(), started.ID)
		if err == nil && (ended.Exit == nil || ended.Exit.Code != 3) {
			err = errors.New("it ended in another way")
		}
		waiting <- err
	}()
	network.frozen.Store(true)
	t.Run("calls", func(t *testing.T) {
		calls := unaryCalls(client, ref)
		calls["first"] = func(ctx context.Context) error { _, err := unused.Inventory(ctx); return err }
		for what, call := range calls {
			t.Run(what, func(t *testing.T) {
				t.Parallel()
				began := time.Now()
				err := call(t.Context())
				if took := time.Since(began); took >= 20*time.Second { // undoWithin, and more
					t.Errorf("it ends after %v", took)
				}
				wantCode(t, what, err, stacyvm.CodeUnavailable)
				if !errors.Is(err, worker.ErrSilent) {
					t.Errorf("it does not say why: %v", err)
				}
			})
		}
	})
	// The network of this test loses what it is given. A connection that broke is made again; one
	// that lives is kept.
	network.frozen.Store(false)
	select {
	case err := <-waiting:
		t.Fatalf("who waited for a quiet command was given up: %v", err)
	default:
	}
	if _, err := tr.dial(t, "https://"+network.address()).Inventory(t.Context()); err != nil {
		t.Error(err)
	}
	_ = client.Close()
	<-waiting
}

// patient is a worker whose inventory takes until it is told.
type patient struct {
	worker.Worker
	told chan struct{}
}

func (p patient) Inventory(ctx context.Context) (worker.Inventory, error) {
	select {
	case <-p.told:
		return p.Worker.Inventory(ctx)
	case <-ctx.Done():
		return worker.Inventory{}, ctx.Err()
	}
}

// TestSlowIsNotSilent: a worker that works on a call for as long as it likes is waited for, as
// long as it shows that it lives.
func TestSlowIsNotSilent(t *testing.T) {
	testneed.Patience(t)
	t.Parallel()
	far := openLocal(t)
	tr := overMTLS(t)
	p := patient{far.worker, make(chan struct{})}
	handler := remote.NewHandler(tr.config(t, p))
	var signs atomic.Int32
	l := listen(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/health" && signs.Add(1) == 3 {
			close(p.told) // it has been waited for longer than a silent one is
		}
		handler.ServeHTTP(w, r)
	}), tr.server)
	client := tr.dial(t, l.url())
	inventory, err := client.Inventory(t.Context())
	if err != nil || inventory.Worker != here {
		t.Errorf("%+v, %v", inventory, err)
	}
	if signs.Load() < 3 || l.accepted.Load() != 1 {
		t.Errorf("%d signs of life over %d connections", signs.Load(), l.accepted.Load())
	}
}
