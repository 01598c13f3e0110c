package local_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker/local"
)

// late is an engine whose create succeeds all the same once it was told to stop.
type late struct {
	engine.Engine
	began  chan struct{} // closed by the first create
	listed func()        // called after a list was made
}

func (l *late) Create(ctx context.Context, spec engine.Spec) (engine.Instance, error) {
	close(l.began)
	<-ctx.Done()
	return l.Engine.Create(context.WithoutCancel(ctx), spec)
}

func (l *late) List(ctx context.Context) ([]engine.Runtime, error) {
	list, err := l.Engine.List(ctx)
	if l.listed != nil {
		l.listed()
	}
	return list, err
}

// TestLateEngine: a runtime that comes into being after its create was given up is removed again.
func TestLateEngine(t *testing.T) {
	type stop func(ctx context.Context, w *local.Worker, ref stacyvm.Ref, cancel func()) error
	for name, c := range map[string]struct {
		stop stop
		code stacyvm.Code
	}{
		"cancelled": {func(_ context.Context, _ *local.Worker, _ stacyvm.Ref, cancel func()) error { cancel(); return nil }, stacyvm.CodeUnavailable},
		"destroyed": {func(ctx context.Context, w *local.Worker, ref stacyvm.Ref, _ func()) error {
			return w.Destroy(ctx, ref)
		}, stacyvm.CodeConflict},
		"closed": {func(_ context.Context, w *local.Worker, _ stacyvm.Ref, _ func()) error { return w.Close() }, stacyvm.CodeUnavailable},
	} {
		t.Run(name, func(t *testing.T) {
			m, ref := open(t), at(1)
			e := &late{Engine: m.Engine, began: make(chan struct{})}
			w := m.start(t, e)
			defer w.Close()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			created := make(chan error, 1)
			go func() {
				_, err := w.Create(ctx, ref, request())
				created <- err
			}()
			<-e.began
			if err := c.stop(t.Context(), w, ref, cancel); err != nil {
				t.Error(err)
			}
			if name == "cancelled" { // the others wait for it
				wantCode(t, "create", <-created, c.code)
				created <- nil
			}
			if list, err := m.Engine.List(t.Context()); err != nil || len(list) != 0 {
				t.Errorf("left: %+v, %v", list, err)
			}
			if lines := m.lines(t); !strings.Contains(lines[len(lines)-1], `{"Gone"`) {
				t.Error("the record stays")
			}
			if held, _ := m.images.Holders(); len(held) != 0 {
				t.Errorf("held images: %q", held)
			}
			if err := <-created; name != "cancelled" {
				wantCode(t, "create", err, c.code)
			}
		})
	}
}

// TestDestroyedMeanwhile: what goes away while the inventory is taken is not in it.
func TestDestroyedMeanwhile(t *testing.T) {
	m, ref := open(t), at(1)
	m.create(t, ref)
	e := &late{Engine: m.Engine}
	if err := m.Worker.(*local.Worker).Close(); err != nil {
		t.Fatal(err)
	}
	w := m.start(t, e)
	m.Worker = w
	e.listed = func() {
		if err := w.Destroy(t.Context(), ref); err != nil {
			t.Error(err)
		}
		e.listed = nil
	}
	if lines := m.inventory(t); len(lines) != 0 {
		t.Errorf("inventory: %+v", lines)
	}
}

// TestConfirmed: what the journal holds is known after a restart, too, also of a sandbox that is
// gone.
func TestConfirmed(t *testing.T) {
	m, ref, gone := open(t), at(3), at(3)
	m.create(t, ref)
	m.create(t, gone)
	m.destroy(t, gone)
	m.Reopen(t)
	for _, r := range []stacyvm.Ref{ref, gone} {
		older, newer := r, r
		older.Fence.Epoch--
		newer.Fence.Epoch++
		if !m.Worker.(*local.Worker).Confirmed(r) || !m.Worker.(*local.Worker).Confirmed(older) || m.Worker.(*local.Worker).Confirmed(newer) {
			t.Errorf("%v: what is confirmed is not what the journal holds", r)
		}
	}
	if never := at(1); m.Worker.(*local.Worker).Confirmed(never) {
		t.Error("a sandbox that was never here is confirmed")
	}
}
