package store_test

import (
	"bytes"
	"context"
	"database/sql"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/dbtool"
	"github.com/stacyvm/stacyvm/internal/store/internal/postgres"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqlite"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
)

// released are the schema versions that databases in use may have. When one is released, add it
// here and run `go test ./internal/store -run TestUpgrade -fixture VERSION`, which writes what
// such a database is, once and for all.
var released = []int64{1, 4}

var fixture = flag.Int64("fixture", 0, "write the fixtures of this schema version")

func fixturePath(version int64, driver string) string {
	return filepath.Join("testdata", "schema", fmt.Sprintf("%04d.%s.sql", version, driver))
}

// TestUpgrade brings a database of each released version, with data in it, up to date.
func TestUpgrade(t *testing.T) {
	for _, version := range released {
		for _, driver := range []string{"sqlite", "postgres"} {
			t.Run(fmt.Sprintf("%d/driver=%s", version, driver), func(t *testing.T) {
				config := emptyDatabase(t, driver)
				path := fixturePath(version, driver)
				if *fixture == version {
					writeFixture(t, config, version, path)
					config = emptyDatabase(t, driver)
				}
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := rawDatabase(t, config).ExecContext(t.Context(), string(text)); err != nil {
					t.Fatal(err)
				}
				wantUpgraded(t, config)
			})
		}
	}
}

func emptyDatabase(t *testing.T, driver string) store.Config {
	if driver == "postgres" {
		return store.Config{Driver: driver, DSN: postgrestest.Schema(t)}
	}
	return store.Config{Driver: driver, Path: filepath.Join(t.TempDir(), "stacyvm.db")}
}

// rawDatabase is the database without a store.
func rawDatabase(t *testing.T, config store.Config) *sql.DB {
	t.Helper()
	if config.Driver == "postgres" {
		return postgrestest.Connect(t, config.DSN)
	}
	db, err := sqlite.Connect(config.Path, 1, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

// wantUpgraded opens the store over a fixture and looks for what testdata/schema/data.sql put into
// it.
func wantUpgraded(t *testing.T, config store.Config) {
	t.Helper()
	s, err := store.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	shape, err := dbtool.Inspect(t.Context(), config)
	if err != nil || len(shape.Pending) > 0 || len(shape.Missing) > 0 {
		t.Errorf("pending %v, missing %v, %v", shape.Pending, shape.Missing, err)
	}
	if cluster, err := s.Cluster(t.Context()); err != nil || cluster != (store.Cluster{ID: "00112233445566778899aabbccddeeff", Incarnation: 3}) {
		t.Errorf("the identity is %+v, %v", cluster, err)
	}
	const id stacyvm.SandboxID = "sb-111111111111111111111111"
	ctx := t.Context()
	err = s.Update(ctx, func(tx store.Tx) error {
		row, err := tx.Sandboxes().Get(ctx, id)
		if err != nil || row.State != stacyvm.StateRunning || row.Fence != (stacyvm.Fence{Incarnation: 3, Epoch: 7}) || row.Metadata["purpose"] != "Prüfung" || !row.Recovered {
			t.Errorf("the sandbox is %+v, %v", row, err)
		}
		lease, err := tx.Leases().Get(ctx, string(id))
		if err != nil || lease.Epoch != 7 || lease.Generation != 12 || lease.Holder != "w" {
			t.Errorf("the lease is %+v, %v", lease, err)
		}
		if worker, err := tx.Workers().Get(ctx, "w"); err != nil || worker.Capacity.MaxSandboxes != 5 {
			t.Errorf("the worker is %+v, %v", worker, err)
		}
		if lines, err := tx.Audit().Operations(ctx, store.OperationFilter{}); err != nil || len(lines) != 2 || lines[0].Action != "exec" {
			t.Errorf("the audit is %+v, %v", lines, err)
		}
		if lines, err := tx.Audit().Execs(ctx, store.ExecFilter{Sandbox: id}); err != nil || len(lines) != 1 || lines[0].ExitCode != -9 {
			t.Errorf("the exec log is %+v, %v", lines, err)
		}
		known, err := tx.Idempotency().Begin(ctx, store.IdempotencyRecord{Scope: "s", Key: "k"})
		if err != nil || known == nil || string(known.Body) != "answer" || !known.Done {
			t.Errorf("the key is %+v, %v", known, err)
		}
		_, err = tx.Sandboxes().Apply(ctx, id, row.Fence, store.Change{State: stacyvm.StateDestroyed})
		if err != nil {
			return err
		}
		return tx.Audit().AppendOperations(ctx, []stacyvm.Operation{{Actor: "new"}}) // numbers go on
	})
	if err != nil {
		t.Error(err)
	}
}

// TestBesideAnEarlierProgram: control planes on one PostgreSQL are replaced one after the other, so
// one that knows the schema before writes rows meanwhile, without the columns that are new.
func TestBesideAnEarlierProgram(t *testing.T) {
	config := emptyDatabase(t, "postgres")
	s := open(t, config)
	db := postgrestest.Connect(t, config.DSN)
	ended, shortened := stacyvm.NewSandboxID(), stacyvm.NewSandboxID()
	err := s.Update(t.Context(), func(tx store.Tx) error {
		for _, id := range []stacyvm.SandboxID{ended, shortened} {
			_, err := tx.Sandboxes().Insert(t.Context(), stacyvm.Sandbox{
				ID: id, State: stacyvm.StateRunning, OwnerID: "o", WorkerID: "w", Spec: stacyvm.Spec{TTL: time.Hour},
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for id, set := range map[stacyvm.SandboxID]string{ended: `state = 'destroyed'`, shortened: `expires_us = created_us`} {
		if _, err := db.ExecContext(t.Context(), `UPDATE sandboxes SET `+set+` WHERE id = $1`, string(id)); err != nil {
			t.Fatal(err)
		}
	}
	err = s.View(t.Context(), func(tx store.Tx) error {
		n, err := tx.Sandboxes().Count(t.Context(), store.SandboxFilter{Owner: "o"})
		if err != nil {
			return err
		}
		expired, err := tx.Sandboxes().List(t.Context(), store.SandboxFilter{Worker: "w", Expired: true})
		if n != 1 || len(expired) != 1 || expired[0].ID != shortened {
			t.Errorf("%d sandboxes count, want 1; expired are %+v", n, expired)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

// writeFixture makes a database of an earlier version, fills it and writes it down as SQL.
func writeFixture(t *testing.T, config store.Config, version int64, path string) {
	d := sqlite.Dialect(config.Path)
	if config.Driver == "postgres" {
		d = postgres.Dialect("")
	}
	db := rawDatabase(t, config)
	provider, err := sqldb.NewProvider(d, db)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.UpTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join("testdata", "schema", "data.sql"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), string(data)); err != nil {
		t.Fatal(err)
	}
	text := dumpSQLite
	if config.Driver == "postgres" {
		text = dumpPostgres
	}
	if err := os.WriteFile(path, text(t, db, config), 0o600); err != nil {
		t.Fatal(err)
	}
}

// dumpSQLite writes tables, rows and indexes.
func dumpSQLite(t *testing.T, db *sql.DB, _ store.Config) []byte {
	var text bytes.Buffer
	for _, object := range readPairs(t, db, `SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT GLOB 'sqlite_*' ORDER BY rowid`) {
		fmt.Fprintf(&text, "%s;\n", object[1])
	}
	for _, object := range readPairs(t, db, `SELECT name, '' FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*' ORDER BY rowid`) {
		table := object[0]
		var columns []string
		for _, column := range readPairs(t, db, `SELECT name, '' FROM pragma_table_info('`+table+`')`) {
			columns = append(columns, "quote("+column[0]+")")
		}
		for _, row := range readPairs(t, db, `SELECT `+strings.Join(columns, ` || ', ' || `)+`, '' FROM `+table) {
			fmt.Fprintf(&text, "INSERT INTO %s VALUES (%s);\n", table, row[0])
		}
	}
	return text.Bytes()
}

func readPairs(t *testing.T, db *sql.DB, query string) (pairs [][2]string) {
	t.Helper()
	rows, err := db.QueryContext(t.Context(), query)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		var pair [2]string
		if err := rows.Scan(&pair[0], &pair[1]); err != nil {
			t.Fatal(err)
		}
		pairs = append(pairs, pair)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return pairs
}

// unportable are the lines of pg_dump's output that are for psql, or that name the schema.
var unportable = regexp.MustCompile(`(?m)^(\\|SET |SELECT pg_catalog.set_config|CREATE SCHEMA |--|$).*\n`)

// dumpPostgres has pg_dump write the schema of the test, without its name.
func dumpPostgres(t *testing.T, db *sql.DB, config store.Config) []byte {
	var schema string
	if err := db.QueryRowContext(t.Context(), `SELECT current_schema()`).Scan(&schema); err != nil {
		t.Fatal(err)
	}
	plain := strings.Replace(config.DSN, " search_path="+schema, "", 1)
	command := exec.CommandContext(context.WithoutCancel(t.Context()), "pg_dump", "--inserts", "--no-owner", "--no-privileges", "--schema="+schema, "--dbname="+plain)
	output, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	return unportable.ReplaceAll(bytes.ReplaceAll(output, []byte(schema+"."), nil), nil)
}
