package doctor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon"
	"github.com/stacyvm/stacyvm/internal/daemon/daemontest"
	"github.com/stacyvm/stacyvm/internal/store/dbtool"
)

// TestDoctorDatabase follows a database from nothing to damage.
func TestDoctorDatabase(t *testing.T) {
	c := daemontest.Config(t)
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
	if _, _, err := dbtool.Migrate(t.Context(), daemon.StoreConfig(c)); err != nil {
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
