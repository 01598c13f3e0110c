package audit_test

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/audit"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
)

func subscribe(t *testing.T, ctx context.Context, s *control.Service, after int64) *audit.Subscription {
	t.Helper()
	b, err := s.Events(ctx, after)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	return b
}

// take reads the next n events.
func take(t *testing.T, b *audit.Subscription, n int) []stacyvm.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	events := make([]stacyvm.Event, 0, n)
	for len(events) < n {
		event, err := b.Next(ctx)
		if err != nil {
			t.Fatalf("after %d of %d events: %v", len(events), n, err)
		}
		events = append(events, event.Event)
	}
	return events
}

// quiet fails when there is another event.
func quiet(t *testing.T, b *audit.Subscription) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if event, err := b.Next(ctx); err == nil {
		t.Errorf("an unexpected %+v", event)
	} else {
		wantCode(t, err, stacyvm.CodeUnavailable)
	}
}

func kinds(events []stacyvm.Event) []stacyvm.Kind {
	found := make([]stacyvm.Kind, len(events))
	for i, n := range events {
		found[i] = n.Kind
	}
	return found
}

// tellOf appends numbered events, many in one transaction.
func tellOf(t *testing.T, s store.Store, tenant string, from, to int) {
	t.Helper()
	for from < to {
		var events []stacyvm.Event
		for ; from < to && len(events) < 500; from++ {
			events = append(events, stacyvm.Event{Kind: stacyvm.KindExecStarted, TenantID: tenant, Data: map[string]any{"n": float64(from)}})
		}
		controltest.Update(t, s, func(tx store.Tx) error { return tx.Events().Append(t.Context(), events) })
	}
}

func TestEventsOfASandboxsLife(t *testing.T) {
	r := &rig{controltest.NewRig(t, func(c *control.Config) { c.Defaults.MaxSandboxes = 1 })}
	b := subscribe(t, r.Ctx, r.Service, audit.Latest)
	sandbox, _, err := r.Create(controltest.As(t.Context(), "ann", "acme"), control.CreateRequest{}, control.Idempotency{})
	wantCode(t, err, "")
	_, _, err = r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{})
	wantCode(t, err, stacyvm.CodeLimit)
	first := take(t, b, 3)
	wantCode(t, r.Destroy(r.Ctx, sandbox.ID), "")
	r.Machine.BeforeCreate = func(context.Context, stacyvm.Ref) error { return errors.New("the engine's own text") }
	if _, _, err := r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{}); err == nil {
		t.Error("a create succeeded without a worker")
	}
	got := slices.Concat(first, take(t, b, 4))
	want := []stacyvm.Kind{
		stacyvm.KindSandboxCreated, stacyvm.KindSandboxRunning, stacyvm.KindResourceLimit, stacyvm.KindSandboxDestroyed,
		stacyvm.KindSandboxCreated, stacyvm.KindProviderFailed, stacyvm.KindSandboxDestroyed,
	}
	if !slices.Equal(kinds(got), want) {
		t.Errorf("told of %v, want %v", kinds(got), want)
	}
	for i, n := range got {
		if i > 0 && n.Number <= got[i-1].Number || n.CreatedAt.IsZero() {
			t.Errorf("event %d has number %d and time %s", i, n.Number, n.CreatedAt)
		}
	}
	if n := got[1]; n.SandboxID != sandbox.ID || n.TenantID != "acme" || n.Data["owner_id"] != "ann" || n.Data["provider"] != "mock" {
		t.Errorf("running: %+v", n)
	}
	if n := got[5]; n.Data["code"] != string(stacyvm.CodeInternal) || n.Data["provider"] != "mock" || len(n.Data) != 3 {
		t.Errorf("provider failed: %+v", n)
	}
	if n := got[6]; n.Data["reason"] != "create_failed" {
		t.Errorf("destroyed: %+v", n)
	}
	quiet(t, b)
}

func TestEventsOfATenant(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	acme := subscribe(t, controltest.As(t.Context(), "bob", "acme"), r.Service, 0)
	tellOf(t, r.Store, "other", 0, 300)
	tellOf(t, r.Store, "acme", 300, 302)
	tellOf(t, r.Store, "", 302, 303)
	got := take(t, acme, 2)
	if got[0].Data["n"] != 300.0 || got[1].Data["n"] != 301.0 {
		t.Errorf("a tenant was told of %+v", got)
	}
	quiet(t, acme)
	if acme.Place() != 303 { // so that it is not told that others' events were missed
		t.Errorf("its place is %d", acme.Place())
	}
	_, err := r.Events(auth.With(t.Context(), stacyvm.Principal{Subject: "eve", Scopes: []string{"api:*"}}), 0)
	wantCode(t, err, stacyvm.CodeForbidden)
}

func TestEventsAreReplayed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stacyvm.db")
	w := controltest.NewWorker()
	ctx := controltest.As(t.Context(), "ann", "")
	s := controltest.Open(t, store.Config{Path: path})
	before := controltest.NewService(t, s, w, nil)
	tellOf(t, s, "", 1, 6)
	seen := take(t, subscribe(t, ctx, before, 0), 2)[1]
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	again := controltest.Open(t, store.Config{Path: path})
	after := controltest.NewService(t, again, w, nil)
	b := subscribe(t, ctx, after, seen.Number)
	tellOf(t, again, "", 6, 8)
	for i, n := range take(t, b, 5) {
		if n.Data["n"] != float64(i+3) {
			t.Errorf("event %d of the replay is %+v", i, n)
		}
	}
	quiet(t, b)
}

// TestEventsAcrossServers tells each server's subscriber of what any of them does, once and in one
// order.
func TestEventsAcrossServers(t *testing.T) {
	for driver, database := range map[string]func(*testing.T) store.Config{
		"sqlite":   func(t *testing.T) store.Config { return store.Config{Path: filepath.Join(t.TempDir(), "stacyvm.db")} },
		"postgres": func(t *testing.T) store.Config { return store.Config{Driver: "postgres", DSN: postgrestest.Schema(t)} },
	} {
		t.Run("driver="+driver, func(t *testing.T) {
			const servers, each = 3, 12
			config, w, ctx := database(t), controltest.NewWorker(), controltest.As(t.Context(), "ann", "")
			services := make([]*control.Service, servers)
			subscriptions := make([]*audit.Subscription, servers)
			for i := range services {
				s := controltest.Open(t, config)
				controltest.Register(t, s)
				services[i] = controltest.NewService(t, s, w, nil)
				subscriptions[i] = subscribe(t, ctx, services[i], audit.Latest)
			}
			var wait sync.WaitGroup
			for _, service := range services {
				wait.Go(func() {
					for range each {
						sandbox, _, err := service.Create(ctx, control.CreateRequest{}, control.Idempotency{})
						wantCode(t, err, "")
						wantCode(t, service.Destroy(ctx, sandbox.ID), "")
					}
				})
			}
			first := take(t, subscriptions[0], 3*servers*each)
			next := map[stacyvm.SandboxID][]stacyvm.Kind{}
			for _, n := range first {
				next[n.SandboxID] = append(next[n.SandboxID], n.Kind)
			}
			for id, told := range next {
				if !slices.Equal(told, []stacyvm.Kind{stacyvm.KindSandboxCreated, stacyvm.KindSandboxRunning, stacyvm.KindSandboxDestroyed}) {
					t.Errorf("of %s was told %v", id, told)
				}
			}
			for _, other := range subscriptions[1:] {
				for i, n := range take(t, other, len(first)) {
					if n.Number != first[i].Number {
						t.Fatalf("two subscribers see %d and %d at place %d", first[i].Number, n.Number, i)
					}
				}
			}
			wait.Wait()
		})
	}
}

// TestWhatIsThereNow: who asks for what is there, and does not stay, gets everything that was
// committed before, whichever server did it and whether or not anybody listened; and who asks for
// what happens from now on gets nothing of it.
func TestWhatIsThereNow(t *testing.T) {
	for driver, database := range map[string]func(*testing.T) store.Config{
		"sqlite":   func(t *testing.T) store.Config { return store.Config{Path: filepath.Join(t.TempDir(), "stacyvm.db")} },
		"postgres": func(t *testing.T) store.Config { return store.Config{Driver: "postgres", DSN: postgrestest.Schema(t)} },
	} {
		t.Run("driver="+driver, func(t *testing.T) {
			config, ctx := database(t), controltest.As(t.Context(), "ann", "")
			doing, asked := controltest.Open(t, config), controltest.Open(t, config)
			controltest.Register(t, doing)
			does := controltest.NewService(t, doing, controltest.NewWorker(), nil)
			reads := controltest.NewService(t, asked, controltest.NewWorker(), nil)
			var last int64
			for round := range 20 {
				sandbox, _, err := does.Create(ctx, control.CreateRequest{}, control.Idempotency{})
				wantCode(t, err, "")
				wantCode(t, does.Destroy(ctx, sandbox.ID), "")
				if round%2 == 1 {
					latest := subscribe(t, ctx, reads, audit.Latest)
					if n, err := latest.Now(ctx); n != nil || err != nil {
						t.Errorf("round %d: from now on: %+v, %v", round, n, err)
					}
					latest.Close()
				}
				b := subscribe(t, ctx, reads, last)
				var told []stacyvm.Kind
				for {
					n, err := b.Now(ctx)
					wantCode(t, err, "")
					if n == nil {
						break
					}
					told, last = append(told, n.Kind), n.Number
				}
				if !slices.Equal(told, []stacyvm.Kind{stacyvm.KindSandboxCreated, stacyvm.KindSandboxRunning, stacyvm.KindSandboxDestroyed}) {
					t.Errorf("round %d: told of %v", round, told)
				}
				b.Close()
			}
		})
	}
}

// TestEventsOfASlowSubscriber lets it fall behind what is kept: it is told so and reads on, and
// has never more than a page.
func TestEventsOfASlowSubscriber(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	b := subscribe(t, r.Ctx, r.Service, 0)
	tellOf(t, r.Store, "", 1, 2001)
	for i, n := range take(t, b, 150) {
		if n.Data["n"] != float64(i+1) {
			t.Fatalf("event %d is %+v", i, n)
		}
	}
	controltest.Update(t, r.Store, func(tx store.Tx) error {
		_, err := tx.Events().Purge(t.Context(), store.EventLife, 500)
		return err
	})
	got := take(t, b, 551) // what it has in hand, the gap, what is kept
	for i, n := range got[:50] {
		if n.Data["n"] != float64(i+151) {
			t.Fatalf("event %d of the page in hand is %+v", i, n)
		}
	}
	if got[50].Kind != stacyvm.KindMissed || got[50].Number != 1500 {
		t.Errorf("instead of being told of the gap: %+v", got[50])
	}
	for i, n := range got[51:] {
		if n.Data["n"] != float64(i+1501) {
			t.Fatalf("event %d behind the gap is %+v", i, n)
		}
	}
	quiet(t, b)
}

func TestEventsFromAPlaceThatIsNotThere(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	tellOf(t, r.Store, "", 1, 11)
	b := subscribe(t, r.Ctx, r.Service, 1_000)
	tellOf(t, r.Store, "", 11, 12)
	if got := take(t, b, 2); got[0].Kind != stacyvm.KindMissed || got[0].Number != 10 || got[1].Data["n"] != 11.0 {
		t.Errorf("ahead of everything: %+v", got)
	}
	for after, want := range map[int64]float64{0: 1, 8: 9} {
		if got := take(t, subscribe(t, r.Ctx, r.Service, after), 1); got[0].Data["n"] != want {
			t.Errorf("after %d: %+v", after, got[0])
		}
	}
	latest := subscribe(t, r.Ctx, r.Service, audit.Latest)
	quiet(t, latest)
	tellOf(t, r.Store, "", 12, 13)
	if got := take(t, latest, 1); got[0].Data["n"] != 12.0 {
		t.Errorf("from now on: %+v", got[0])
	}
}
