package store

import (
	"context"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
)

// openDeaf opens a store that finds nothing by looking, so that only what it hears wakes its
// watchers.
func openDeaf(t *testing.T, dsn string) Store {
	t.Helper()
	s, err := Open(t.Context(), Config{Driver: "postgres", DSN: dsn, WatchEvery: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func happen(t *testing.T, s Store) {
	t.Helper()
	err := s.Update(t.Context(), func(tx Tx) error {
		return tx.Events().Append(t.Context(), []stacyvm.Event{{Kind: stacyvm.KindExecStarted}})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// wantEvents waits, woken by the watch alone, until there are events up to a number.
func wantEvents(t *testing.T, s Store, woken <-chan struct{}, last int64) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		var span EventSpan
		err := s.View(t.Context(), func(tx Tx) (err error) {
			span, err = tx.Events().Span(t.Context())
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if span.Last >= last {
			return
		}
		select {
		case <-woken:
		case <-deadline:
			t.Fatalf("events are known up to %d, want %d", span.Last, last)
		}
	}
}

// TestPostgresProcessesTellEachOther also takes the listening connection away: it comes back.
func TestPostgresProcessesTellEachOther(t *testing.T) {
	dsn := postgrestest.Schema(t)
	says, hears := openDeaf(t, dsn), openDeaf(t, dsn)
	admin := postgrestest.Connect(t, dsn)
	ctx, cancel := context.WithCancel(t.Context())
	woken := hears.Watch(ctx)
	for round := range int64(3) {
		happen(t, says)
		wantEvents(t, hears, woken, round+1)
		// Whoever listens on this server: other tests' listeners come back too.
		if _, err := admin.ExecContext(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query = 'LISTEN stacyvm_events'`); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	if err := hears.Close(); err != nil {
		t.Error(err)
	}
	if err := says.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-hears.Watch(t.Context()): // of a closed store
		t.Error("a closed store woke its watcher")
	default:
	}
}
