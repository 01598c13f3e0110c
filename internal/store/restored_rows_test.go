package store_test

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/dbtool"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
	"github.com/stacyvm/stacyvm/internal/store/storetest"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// filled is an open store with rows in every table.
func filled(t *testing.T, config store.Config) store.Store {
	t.Helper()
	driver := config.Driver
	if driver == "" {
		driver = "sqlite"
		if err := os.WriteFile(config.Path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join("testdata", "schema", "0004."+driver+".sql"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := raw(t, config).ExecContext(t.Context(), string(text)); err != nil {
		t.Fatal(err)
	}
	s, err := store.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	err = s.Update(t.Context(), func(tx store.Tx) error { // the one table that is younger than the fixture
		for _, id := range []string{"used", "unused"} {
			made := time.Now()
			if _, err := tx.JoinTokens().Create(t.Context(), stacyvm.JoinToken{ID: id, Worker: "*", CreatedAt: made, ExpiresAt: made.Add(time.Hour)}); err != nil {
				return err
			}
		}
		_, err := tx.JoinTokens().Use(t.Context(), "used", "w")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := storetest.AddSandboxes(t.Context(), s); err != nil { // and its event
		t.Fatal(err)
	}
	for range 3 { // what refers to another comes after it
		for table, rows := range contents(t, config) {
			if len(rows) == 0 {
				err = errors.Join(err, anyRow(t, raw(t, config), table))
			}
		}
	}
	for table, rows := range contents(t, config) {
		if len(rows) == 0 {
			t.Errorf("the table %s is empty: %v", table, err)
		}
	}
	return s
}

// anyRow puts a row into a table, with the same word in every column of text.
func anyRow(t *testing.T, db *sql.DB, table string) error {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), `SELECT * FROM `+table)
	if err != nil {
		return err
	}
	defer rows.Close()
	columns, err := rows.ColumnTypes()
	if err = errors.Join(err, rows.Err()); err != nil {
		return err
	}
	var names, values []string
	for _, column := range columns {
		value := map[string]string{"TEXT": "'{}'", "BOOL": "TRUE", "BOOLEAN": "TRUE"}[column.DatabaseTypeName()]
		if column.Name() != "id" || value != "" { // else the database numbers it
			names, values = append(names, column.Name()), append(values, cmp.Or(value, "1"))
		}
	}
	_, err = db.ExecContext(t.Context(), `INSERT INTO `+table+` (`+strings.Join(names, ", ")+`) VALUES (`+strings.Join(values, ", ")+`)`)
	return err
}

// underLoad runs do while others write.
func underLoad(t *testing.T, s store.Store, do func()) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	var writers sync.WaitGroup
	writing := make(chan struct{})
	var once sync.Once
	for range 4 {
		writers.Go(func() {
			defer once.Do(func() { close(writing) })
			for ctx.Err() == nil {
				if _, err := storetest.AddSandboxes(context.WithoutCancel(ctx), s); err != nil {
					t.Error(err)
					return
				}
				once.Do(func() { close(writing) })
			}
		})
	}
	<-writing
	do()
	stop()
	writers.Wait()
}

// wantRows compares all rows of all tables. changed names the columns of a table ("table.column")
// that may differ.
func wantRows(t *testing.T, want, got map[string][]line, changed ...string) {
	t.Helper()
	sorted := func(table string, rows []line) (texts []string) {
		for _, row := range rows {
			row = maps.Clone(row)
			for column := range row {
				if slices.Contains(changed, table+"."+column) {
					delete(row, column)
				}
			}
			texts = append(texts, fmt.Sprint(row))
		}
		slices.Sort(texts)
		return texts
	}
	for _, table := range slices.Sorted(maps.Keys(want)) {
		if diff := gocmp.Diff(sorted(table, want[table]), sorted(table, got[table])); diff != "" {
			t.Errorf("the table %s differs (-before +after):\n%.4000s", table, diff)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d tables, want %d", len(got), len(want))
	}
}

// without leaves out a table's rows that have a value in a column.
func without(rows map[string][]line, table, column, value string) map[string][]line {
	rows = maps.Clone(rows)
	rows[table] = slices.DeleteFunc(slices.Clone(rows[table]), func(l line) bool { return l[column] == value })
	return rows
}

// heldAll demands that every row that was there before the load is in the copy as it was.
func heldAll(t *testing.T, before, copied map[string][]line) {
	t.Helper()
	for table, rows := range before {
		for _, row := range rows {
			there := slices.ContainsFunc(copied[table], func(l line) bool { return maps.Equal(l, row) })
			if !there && table != "event_counter" { // which counts on
				t.Errorf("%s: the copy lacks %v", table, row)
			}
		}
	}
	if len(copied["sandboxes"]) <= len(before["sandboxes"]) {
		t.Error("nothing was written during the copy")
	}
}

// TestRestoreKeepsRows backs a database with rows in every table up while it is written, and puts
// it back on an empty machine: every row is as it was in the backup, but for what a new
// incarnation changes.
func TestRestoreKeepsRows(t *testing.T) {
	live := store.Config{Path: filepath.Join(t.TempDir(), "stacyvm.db")}
	s := filled(t, live)
	before := contents(t, live)
	out, empty := filepath.Join(t.TempDir(), "backup"), store.Config{Path: filepath.Join(t.TempDir(), "stacyvm.db")}
	underLoad(t, s, func() {
		if _, err := dbtool.BackupSQLite(t.Context(), dbtool.BackupRequest{Database: live.Path, Out: out}); err != nil {
			t.Error(err)
		}
	})
	backedUp := contents(t, store.Config{Path: out})
	heldAll(t, before, backedUp)
	if _, err := dbtool.RestoreSQLite(t.Context(), dbtool.RestoreRequest{Backup: out, Database: empty.Path}); err != nil {
		t.Fatal(err)
	}
	restored := contents(t, empty)
	wantRows(t,
		without(backedUp, "join_tokens", "id", "unused"),     // a token must not be good twice
		without(restored, "leases", "resource_id", "settle"), // whoever starts gives the owners time to come back
		"cluster.incarnation", "sandboxes.incarnation", "sandboxes.updated_us", "event_counter.last")
}

// TestDumpKeepsRows does so with PostgreSQL's own programs, which change nothing.
func TestDumpKeepsRows(t *testing.T) {
	server := testneed.Postgres(t)
	testneed.Program(t, "pg_dump")
	live, empty := store.Config{Driver: "postgres", DSN: postgrestest.NewDatabase(t, server)}, store.Config{Driver: "postgres", DSN: postgrestest.NewDatabase(t, server)}
	s := filled(t, live)
	before := contents(t, live)
	out := filepath.Join(t.TempDir(), "dump")
	underLoad(t, s, func() {
		if _, err := dbtool.DumpPostgres(t.Context(), dbtool.DumpRequest{DSN: live.DSN, Out: out, Format: "plain"}); err != nil {
			t.Error(err)
		}
	})
	if output, err := exec.Command("psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file="+out, empty.DSN).CombinedOutput(); err != nil {
		t.Fatalf("psql: %v\n%s", err, output)
	}
	restored := contents(t, empty)
	heldAll(t, before, restored)
	back, err := store.Open(t.Context(), empty)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = back.Close() })
	wantRows(t, restored, contents(t, empty)) // a server that starts on it changes nothing
}
