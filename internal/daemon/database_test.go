package daemon

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/dbtool"
)

// testConfig keeps everything in a directory of the test.
func testConfig(t *testing.T) config.Config {
	t.Helper()
	c := config.Default()
	c.DataDir = filepath.Join(t.TempDir(), "data")
	return c
}

func must[T any](t *testing.T) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func wantCode(t *testing.T, err error, want stacyvm.Code) {
	t.Helper()
	if stacyvm.CodeOf(err) != want {
		t.Errorf("got %v, want code %q", err, want)
	}
}

// level gives the level of the check with that name, "" without one.
func level(checks []config.Check, name string) config.Level {
	for _, check := range checks {
		if check.Name == name {
			return check.Level
		}
	}
	return ""
}

// backUp is `stacyvm db backup`.
func backUp(t *testing.T, c config.Config, path, out string, force bool) (dbtool.Backup, error) {
	t.Helper()
	path, err := SQLiteFile(c, path)
	if err != nil {
		return dbtool.Backup{}, err
	}
	return dbtool.BackupSQLite(t.Context(), dbtool.BackupRequest{Database: path, Out: out, Force: force})
}

func TestRestoreNeedsAStillDataDirectory(t *testing.T) {
	c := testConfig(t)
	if _, _, err := dbtool.Migrate(t.Context(), StoreConfig(c)); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "backup")
	if _, err := backUp(t, c, "", out, false); err != nil {
		t.Fatal(err)
	}
	serving := must[*lock](t)(lockFile(filepath.Join(c.DataDir, serveLock)))
	if _, err := backUp(t, c, "", out, true); err != nil {
		t.Errorf("a backup under a server: %v", err)
	}
	_, err := RestoreDatabase(t.Context(), c, out, "")
	wantCode(t, err, stacyvm.CodeConflict)
	_, err = RaiseIncarnation(t.Context(), c)
	wantCode(t, err, stacyvm.CodeConflict)
	serving.release()
	done := must[dbtool.Restored](t)(RestoreDatabase(t.Context(), c, out, ""))
	if found := must[dbtool.Schema](t)(dbtool.Inspect(t.Context(), StoreConfig(c))); found.Cluster.Incarnation != done.Incarnation || done.Incarnation != 2 {
		t.Errorf("incarnation %d, told was %d", found.Cluster.Incarnation, done.Incarnation)
	}
	if raised := must[int64](t)(RaiseIncarnation(t.Context(), c)); raised != 3 {
		t.Errorf("raised to %d", raised)
	}
	must[*lock](t)(lockFile(filepath.Join(c.DataDir, serveLock))).release() // it was let go
}

// TestRestoreRisesAboveTheJournal has lost the database of the latest incarnation: the worker still knows of it.
func TestRestoreRisesAboveTheJournal(t *testing.T) {
	c := testConfig(t)
	if _, _, err := dbtool.Migrate(t.Context(), StoreConfig(c)); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "backup")
	must[dbtool.Backup](t)(backUp(t, c, "", out, false))
	journal := sharedPlace(c.DataDir, "").worker
	if err := os.MkdirAll(journal, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(journal, string(stacyvm.NewSandboxID())+".json"), []byte(`{"Fence": {"incarnation": 7, "epoch": 1}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(c.DatabasePath()); err != nil {
		t.Fatal(err)
	}
	if done := must[dbtool.Restored](t)(RestoreDatabase(t.Context(), c, out, "")); done.Incarnation != 8 {
		t.Errorf("incarnation %d", done.Incarnation)
	}
}

func TestToolsForSQLiteRefusePostgres(t *testing.T) {
	c := testConfig(t)
	if _, _, err := dbtool.Migrate(t.Context(), StoreConfig(c)); err != nil {
		t.Fatal(err)
	}
	file := c.DatabasePath()
	c.Database.Driver, c.Database.DSN = "postgres", "host=/nowhere"
	out := filepath.Join(t.TempDir(), "backup")
	_, err := backUp(t, c, "", out, false)
	wantCode(t, err, stacyvm.CodeInvalid)
	_, err = RestoreDatabase(t.Context(), c, out, "")
	wantCode(t, err, stacyvm.CodeInvalid)
	must[dbtool.Backup](t)(backUp(t, c, file, out, false))
	must[dbtool.Restored](t)(RestoreDatabase(t.Context(), c, out, file))
}

// TestDoctorDatabase follows a database from nothing to damage.
func TestDoctorDatabase(t *testing.T) {
	c := testConfig(t)
	want := func(name string, want config.Level, words string) {
		t.Helper()
		checks := doctorDatabase(t.Context(), c, false)
		i := slices.IndexFunc(checks, func(check config.Check) bool { return check.Name == name })
		if i < 0 || checks[i].Level != want || !strings.Contains(checks[i].Message, words) || (want == config.Pass) != (checks[i].Fix == "") {
			t.Errorf("%s: want %s with %q and a fix unless it passes, got %+v", name, want, words, checks)
		}
	}
	want("database.path", config.Warn, c.DataDir)
	want("database.schema", config.Pass, "empty")
	if _, err := os.Stat(c.DataDir); !os.IsNotExist(err) {
		t.Errorf("looking made the directory: %v", err)
	}
	if _, _, err := dbtool.Migrate(t.Context(), StoreConfig(c)); err != nil {
		t.Fatal(err)
	}
	want("database.path", config.Pass, c.DatabasePath())
	want("database.schema", config.Pass, "incarnation 1")
	want("database.sync", config.Pass, "median")
	if entries := must[[]os.DirEntry](t)(os.ReadDir(c.DataDir)); len(entries) != 1 {
		t.Errorf("looking left %v", entries)
	}
	if err := os.WriteFile(c.DatabasePath(), []byte(strings.Repeat("no database\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	want("database.schema", config.Fail, "not a SQLite database")
	c.Database.Path = filepath.Join(c.DatabasePath(), "below")
	want("database.path", config.Fail, "not a directory")
	t.Chdir(t.TempDir())
	c.Database.Path = "here.db"
	want("database.path", config.Warn, "relative")
	c.Database.Driver, c.Database.DSN = "postgres", "postgres://ann:c4nary@127.0.0.1:1/app"
	want("database.driver", config.Fail, "")
}

func TestSchemaChecks(t *testing.T) {
	one := []struct {
		name   string
		schema dbtool.Schema
		want   config.Level
	}{
		{"up to date", dbtool.Schema{Exists: true, Present: 4, Known: 4, Changeable: true}, config.Pass},
		{"empty", dbtool.Schema{Known: 4, Changeable: true, Pending: stepsOf(4)}, config.Pass},
		{"empty, and may not be filled", dbtool.Schema{Exists: true, Known: 4, Pending: stepsOf(4)}, config.Fail},
		{"behind", dbtool.Schema{Exists: true, Present: 3, Known: 4, Changeable: true, Pending: stepsOf(1)}, config.Warn},
		{"ahead", dbtool.Schema{Exists: true, Present: 5, Known: 4, Changeable: true}, config.Fail},
		{"torn", dbtool.Schema{Exists: true, Present: 4, Known: 4, Changeable: true, Missing: []string{"leases"}}, config.Fail},
	}
	for _, tt := range one {
		if got := schemaChecks(tt.schema); len(got) != 1 || got[0].Level != tt.want || (tt.want == config.Pass) != (got[0].Fix == "") {
			t.Errorf("%s: %+v, want %s", tt.name, got, tt.want)
		}
	}
}
