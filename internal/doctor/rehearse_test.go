package doctor

import (
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	_ "modernc.org/sqlite" // for what a store would not do

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon"
	"github.com/stacyvm/stacyvm/internal/daemon/daemontest"
	"github.com/stacyvm/stacyvm/internal/store/dbtool"
	"github.com/stacyvm/stacyvm/internal/store/migrations"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

func stepsOf(n int) (steps []dbtool.Step) {
	for i := range n {
		steps = append(steps, dbtool.Step{Version: int64(i + 1), Name: fmt.Sprintf("%04d_x.sql", i+1)})
	}
	return steps
}

// change runs a statement past the store.
func change(t *testing.T, db *sql.DB, text string) {
	t.Helper()
	if _, err := db.ExecContext(t.Context(), text); err != nil {
		t.Fatal(err)
	}
}

func TestRehearseUpgrade(t *testing.T) {
	c := daemontest.Config(t)
	rehearse := func(u Upgrade) []config.Check {
		u.Config = config.Loaded{Config: c, Sources: map[string]string{}}
		checks, steps := RehearseUpgrade(t.Context(), u)
		if len(steps) < 5 {
			t.Errorf("steps: %q", steps)
		}
		return checks
	}
	want := func(checks []config.Check, wanted map[string]config.Level) {
		t.Helper()
		for name, want := range wanted {
			if got := daemontest.Level(checks, name); got != want {
				t.Errorf("%s is %q, want %q", name, got, want)
			}
		}
	}
	if err := os.MkdirAll(c.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	want(rehearse(Upgrade{}), map[string]config.Level{"auth.api_key": config.Fail, "database.source": config.Fail, "database.integrity": ""})
	if _, _, err := dbtool.Migrate(t.Context(), daemon.StoreConfig(c)); err != nil {
		t.Fatal(err)
	}
	good := map[string]config.Level{
		"database.source": config.Pass, "database.integrity": config.Pass, "database.upgrade": config.Pass, "backup.directory": config.Pass, "backup.output": config.Pass,
	}
	want(rehearse(Upgrade{}), good)
	want(rehearse(Upgrade{Database: c.DatabasePath(), Output: filepath.Join(t.TempDir(), "b")}), good)
	want(rehearse(Upgrade{Output: c.DatabasePath()}), map[string]config.Level{"backup.output": config.Fail})
	want(rehearse(Upgrade{Output: filepath.Join(c.DataDir, "none", "b")}), map[string]config.Level{"backup.directory": config.Fail})
	if entries, err := os.ReadDir(c.DataDir); len(entries) != 1 || err != nil {
		t.Errorf("the rehearsal left %v, %v", entries, err)
	}

	db, err := sql.Open("sqlite", c.DatabasePath())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	change(t, db, `INSERT INTO schema_migrations (version_id, is_applied) VALUES (9000, true)`)
	want(rehearse(Upgrade{}), map[string]config.Level{"database.schema": config.Fail})
	// Without its number the last step is tried again, on a copy, and finds its own work there.
	change(t, db, `DELETE FROM schema_migrations WHERE version_id = 9000 OR version_id = (SELECT max(version_id) FROM schema_migrations WHERE version_id < 9000)`)
	before := must[dbtool.Schema](t)(dbtool.Inspect(t.Context(), daemon.StoreConfig(c)))
	want(rehearse(Upgrade{}), map[string]config.Level{"database.source": config.Pass, "database.upgrade": config.Fail})
	if after := must[dbtool.Schema](t)(dbtool.Inspect(t.Context(), daemon.StoreConfig(c))); after.Present != before.Present || len(after.Pending) != 1 {
		t.Errorf("the rehearsal changed the schema from version %d to %d", before.Present, after.Present)
	}
	c.Database.Path = filepath.Join(t.TempDir(), "first.db")
	first := must[[]migrations.Step](t)(migrations.Steps(map[string]string{"serial": "INTEGER PRIMARY KEY", "postgres": "-- ", "stored": "VIRTUAL"}))[0]
	old, err := sql.Open("sqlite", c.Database.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	change(t, old, first.Text+`;
		CREATE TABLE schema_migrations (id INTEGER PRIMARY KEY AUTOINCREMENT, version_id INTEGER NOT NULL, is_applied INTEGER NOT NULL, tstamp TIMESTAMP DEFAULT (datetime('now')));
		INSERT INTO schema_migrations (version_id, is_applied) VALUES (0, 1), (1, 1);
		INSERT INTO cluster (one, id, incarnation, created_us) VALUES (1, 'old', 5, 0)`)
	want(rehearse(Upgrade{}), good)
	if found := must[dbtool.Schema](t)(dbtool.Inspect(t.Context(), daemon.StoreConfig(c))); found.Present != 1 {
		t.Errorf("the rehearsal changed the schema to version %d", found.Present)
	}
}

// postgresConfig is a configuration with a schema of its own on the test's server.
func postgresConfig(t *testing.T) (config.Config, *sql.DB) {
	t.Helper()
	dsn := testneed.Postgres(t)
	parsed, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal("the DSN of the test server cannot be read")
	}
	name := fmt.Sprintf("rehearse_%d", time.Now().UnixNano())
	parsed.RuntimeParams["search_path"] = name
	db := stdlib.OpenDB(*parsed)
	t.Cleanup(func() { db.Close() })
	change(t, db, `CREATE SCHEMA `+name)
	t.Cleanup(func() {
		if _, err := db.Exec(`DROP SCHEMA ` + name + ` CASCADE`); err != nil {
			t.Error(err)
		}
	})
	c := daemontest.Config(t)
	c.Database.Driver = "postgres"
	if c.Database.DSN = dsn + " search_path=" + name; len(dsn) > 11 && dsn[:8] == "postgres" {
		c.Database.DSN = dsn + "&search_path=" + name
	}
	return c, db
}

func TestRehearsePostgres(t *testing.T) {
	c, db := postgresConfig(t)
	want := func(connection, migrations, tables config.Level) {
		t.Helper()
		checks := RehearsePostgres(t.Context(), c)
		if daemontest.Level(checks, "database.connection") != connection || daemontest.Level(checks, "database.migrations") != migrations || daemontest.Level(checks, "database.tables") != tables {
			t.Errorf("got %+v, want %s, %s, %s", checks, connection, migrations, tables)
		}
	}
	want(config.Pass, config.Pass, config.Pass)
	if before, after, err := dbtool.Migrate(t.Context(), daemon.StoreConfig(c)); err != nil || len(before.Pending) == 0 || len(after.Pending) != 0 {
		t.Fatalf("%+v, %+v, %v", before, after, err)
	}
	want(config.Pass, config.Pass, config.Pass)
	if daemontest.Level(doctorDatabase(t.Context(), c, false), "database.driver") != config.Pass {
		t.Error("doctor does not connect")
	}
	if raised := must[int64](t)(daemon.RaiseIncarnation(t.Context(), c)); raised != 2 {
		t.Errorf("incarnation %d", raised)
	}
	change(t, db, `DROP TABLE exec_log`)
	want(config.Pass, config.Pass, config.Fail)
	change(t, db, `INSERT INTO schema_migrations (version_id, is_applied) VALUES (9000, true)`)
	want(config.Pass, config.Fail, config.Fail)
	c.Database.DSN = "postgres://ann:c4nary@127.0.0.1:1/app"
	want(config.Fail, "", "")
}
