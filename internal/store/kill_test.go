package store_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// childWrite does deeds until it is killed, and prints each before it is tried and when it was
// answered.
func childWrite(ctx context.Context, s store.Store) error {
	note := func(d deed) error {
		_, err := fmt.Println(encoded(d))
		return err
	}
	var wait sync.WaitGroup
	failures := make([]error, 8)
	for i := range failures {
		wait.Go(func() {
			for failures[i] == nil {
				failures[i] = live(ctx, s, len(deeds), note)
			}
		})
	}
	wait.Wait()
	return errors.Join(failures...)
}

// TestAnsweredWritesSurviveKill kills a writing process at any moment, again and again on one
// database, and compares the database with what the processes had printed.
func TestAnsweredWritesSurviveKill(t *testing.T) {
	t.Run("driver=sqlite", func(t *testing.T) {
		t.Parallel()
		config := drivers["sqlite"](t)
		killWriters(t, config)
		checkIntegrity(t, config.Path)
	})
	t.Run("driver=postgres", func(t *testing.T) {
		t.Parallel()
		config := store.Config{Driver: "postgres", DSN: postgrestest.NewDatabase(t, testneed.Postgres(t))}
		killWriters(t, config)
		checkIndexes(t, config.DSN)
	})
}

func killWriters(t *testing.T, config store.Config) {
	var j journal
	for range testneed.Often(20, 100) {
		c := startChild(t, "write", config)
		c.start(t)
		limit := j.answered + 1 + rand.IntN(150) // answers, then any moment soon after
		for killed := false; c.output.Scan(); {
			var d deed
			if err := json.Unmarshal(c.output.Bytes(), &d); err != nil {
				if text := c.output.Text(); c.output.Scan() {
					t.Fatalf("the process says %q", text)
				}
				break // cut by the kill
			}
			if err := j.note(d); err != nil {
				t.Fatal(err)
			}
			if j.answered == limit && !killed {
				killed = true
				time.AfterFunc(rand.N(3*time.Millisecond), func() { _ = c.Process.Kill() })
			}
		}
		if err := c.Wait(); err == nil || c.errors.Len() > 0 {
			t.Fatalf("the process was not killed: %v, %s", err, c.errors)
		}
	}
	j.check(t, config, asTheyAre)
}

// checkIntegrity has SQLite check every page, index and reference.
func checkIntegrity(t *testing.T, path string) {
	t.Helper()
	db := raw(t, store.Config{Path: path})
	for _, row := range readAll(t, db, `PRAGMA integrity_check`) {
		if row["integrity_check"] != "ok" {
			t.Errorf("integrity: %q", row)
		}
	}
	for _, row := range readAll(t, db, `PRAGMA foreign_key_check`) {
		t.Errorf("refers to nothing: %q", row)
	}
}

// checkIndexes has PostgreSQL check every table and index of a database that is the test's own,
// and that each row is in its indexes.
func checkIndexes(t *testing.T, dsn string) {
	t.Helper()
	if err := corruption(t, raw(t, store.Config{Driver: "postgres", DSN: dsn})); err != nil {
		t.Error(err)
	}
}

func corruption(t *testing.T, db *sql.DB) error {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), `CREATE EXTENSION IF NOT EXISTS amcheck`); err != nil {
		testneed.Missing(t, "postgres", "amcheck cannot be used: "+err.Error())
	}
	damage, err := ask(t.Context(), db, `SELECT c.relname, v.* FROM pg_class c, LATERAL verify_heapam(c.oid) v
		WHERE c.relkind = 'r' AND c.relnamespace = current_schema()::regnamespace`)
	if err == nil && len(damage) > 0 {
		err = fmt.Errorf("damaged: %q", damage)
	}
	if err != nil {
		return err
	}
	indexes, err := ask(t.Context(), db, `SELECT c.relname, bt_index_parent_check(c.oid, true, true) FROM pg_class c JOIN pg_am a ON a.oid = c.relam
		WHERE a.amname = 'btree' AND c.relkind = 'i' AND c.relnamespace = current_schema()::regnamespace`)
	if err == nil && len(indexes) < 20 {
		err = fmt.Errorf("%d indexes were checked", len(indexes))
	}
	return err
}

// TestIndexChecksTellDamage takes a row out of an index.
func TestIndexChecksTellDamage(t *testing.T) {
	dsn := postgrestest.NewDatabase(t, testneed.Postgres(t))
	s, db := open(t, store.Config{Driver: "postgres", DSN: dsn}), postgrestest.Connect(t, dsn)
	hide := func(hidden bool) {
		text := fmt.Sprintf(`UPDATE pg_index SET indisready = %v, indisvalid = %v WHERE indexrelid = 'leases_holder'::regclass`, !hidden, !hidden)
		if _, err := db.ExecContext(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	for _, hidden := range []bool{false, true} {
		hide(hidden)
		if err := live(t.Context(), s, 1, new(journal).note); err != nil {
			t.Fatal(err)
		}
		hide(false)
		if err := corruption(t, db); (err != nil) != hidden {
			t.Errorf("with a row hidden from an index (%v): %v", hidden, err)
		}
	}
}
