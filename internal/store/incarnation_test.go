package store_test

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
	"github.com/stacyvm/stacyvm/internal/store/storetest"
)

// TestSettle has the first start after a restore bring back what ran out meanwhile, once.
func TestSettle(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { testSettle(t, store.Config{Path: filepath.Join(t.TempDir(), "stacyvm.db")}) })
	t.Run("postgres", func(t *testing.T) {
		testSettle(t, store.Config{Driver: "postgres", DSN: postgrestest.Schema(t)})
	})
}

func testSettle(t *testing.T, config store.Config) {
	const later = 48 * time.Hour // everything has run out by then
	// at opens the database as a process that starts at that time: one that lives through a jump
	// of the clock takes nothing over for a while by itself.
	at := func(skew time.Duration) store.Store {
		config.Skew = func() time.Duration { return skew }
		s, err := store.Open(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	settle := func(s store.Store) time.Time {
		t.Helper()
		until, err := store.RestoreGraceUntil(t.Context(), s, "w", "now")
		if err != nil {
			t.Fatal(err)
		}
		return until
	}
	acquire := func(s store.Store, holder stacyvm.WorkerID, id stacyvm.SandboxID) error {
		return s.Update(t.Context(), func(tx store.Tx) error {
			_, err := tx.Leases().Acquire(t.Context(), store.LeaseRequest{
				Resource: string(id), Type: "sandbox", Holder: holder, Session: "s", TTL: stacyvm.LeaseTTL, Grace: stacyvm.LeaseGrace})
			return err
		})
	}
	first := at(0)
	id, err := storetest.AddSandboxes(t.Context(), first)
	if err != nil {
		t.Fatal(err)
	}
	if until := settle(first); !until.IsZero() {
		t.Errorf("a database that was never raised settles until %s", until)
	}
	if err := acquire(at(later), "other", storetest.Twin(id)); err != nil {
		t.Fatalf("a lease that ran out, before the restore: %v", err)
	}
	if _, err := store.Raise(t.Context(), first, 0); err != nil {
		t.Fatal(err)
	}
	start := time.Now().Add(later)
	until := settle(at(later))
	if left := until.Sub(start); left < store.RestoreGrace || left > store.RestoreGrace+time.Minute {
		t.Errorf("it settles for %s", left)
	}
	if left := row(t, first, id).ExpiresAt.Sub(start); left < time.Minute {
		t.Errorf("the sandbox expires %s after the start", left)
	}
	settling := at(later + store.RestoreGrace - 5*time.Second)
	if err := acquire(settling, "thief", id); stacyvm.CodeOf(err) != stacyvm.CodeConflict {
		t.Errorf("another took it over while the database settled: %v", err)
	}
	if again := settle(settling); !again.Equal(until) {
		t.Errorf("a second start settles until %s, the first until %s", again, until)
	}
	settled := at(later + store.RestoreGrace + time.Minute)
	if again := settle(settled); !again.IsZero() {
		t.Errorf("it settles a second time, until %s", again)
	}
	if err := acquire(settled, "heir", id); err != nil {
		t.Errorf("after it has settled: %v", err)
	}
}

func row(t *testing.T, s store.Store, id stacyvm.SandboxID) (found stacyvm.Sandbox) {
	t.Helper()
	err := s.View(t.Context(), func(tx store.Tx) (err error) {
		found, err = tx.Sandboxes().Get(t.Context(), id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
