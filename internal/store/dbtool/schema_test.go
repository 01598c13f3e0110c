package dbtool_test

import (
	"database/sql"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/dbtool"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
)

func TestInspect(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "stacyvm.db")
		db, err := sql.Open("sqlite", path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = db.Close() })
		testInspect(t, store.Config{Path: path}, db, false)
	})
	t.Run("postgres", func(t *testing.T) {
		dsn := postgrestest.Schema(t)
		testInspect(t, store.Config{Driver: "postgres", DSN: dsn}, postgrestest.Connect(t, dsn), true)
	})
}

// testInspect takes a database through its life. there: it exists before anything is in it.
func testInspect(t *testing.T, config store.Config, db *sql.DB, there bool) {
	look := func() dbtool.Schema {
		t.Helper()
		found, err := dbtool.Inspect(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		return found
	}
	change := func(text string) {
		t.Helper()
		if _, err := db.ExecContext(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	empty := look()
	if empty.Exists != there || empty.Present != 0 || len(empty.Applied) != 0 || empty.Known < 4 || int64(len(empty.Pending)) != empty.Known || len(empty.Tables) != 0 {
		t.Errorf("before the first open: %+v", empty)
	}
	if again := look(); again.Exists != there {
		t.Error("looking made a database")
	}
	s, err := store.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	cluster, err := s.Cluster(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	whole := look()
	if !whole.Exists || whole.Present != whole.Known || len(whole.Pending) != 0 || len(whole.Missing) != 0 || whole.Cluster != cluster || whole.Newer() || whole.Server == "" {
		t.Errorf("up to date: %+v", whole)
	}
	if whole.Applied[0].Name != "0001_first.sql" || len(whole.Tables) < 16 || !slices.Contains(whole.Tables, "sandboxes") {
		t.Errorf("applied %+v, tables %v", whole.Applied, whole.Tables)
	}
	change(`DROP TABLE exec_log`)
	if damaged := look(); !slices.Equal(damaged.Missing, []string{"exec_log"}) {
		t.Errorf("missing: %v", damaged.Missing)
	}
	change(`DELETE FROM schema_migrations WHERE version_id = ` + strconv.FormatInt(whole.Known, 10))
	if older := look(); older.Present != older.Known-1 || len(older.Pending) != 1 || older.Pending[0].Version != older.Known || older.Pending[0].Name == "" {
		t.Errorf("one step behind: %+v", older)
	}
	change(`INSERT INTO schema_migrations (version_id, is_applied) VALUES (9000, true)`)
	if newer := look(); !newer.Newer() || newer.Present != 9000 {
		t.Errorf("of a newer program: %+v", newer)
	}
}

func TestInspectRefuses(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	if err := os.WriteFile(text, []byte(strings.Repeat("no database\n", 1000)), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		config store.Config
		want   stacyvm.Code
	}{
		{"no path", store.Config{}, stacyvm.CodeInvalid},
		{"a text", store.Config{Path: text}, stacyvm.CodeInvalid},
		{"unknown driver", store.Config{Driver: "oracle", Path: text}, stacyvm.CodeInvalid},
		{"no DSN", store.Config{Driver: "postgres"}, stacyvm.CodeInvalid},
		{"no server", store.Config{Driver: "postgres", DSN: "postgres://ann:c4nary@127.0.0.1:1/app"}, stacyvm.CodeUnavailable},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := dbtool.Inspect(t.Context(), tt.config)
			if stacyvm.CodeOf(err) != tt.want || strings.Contains(err.Error(), "c4nary") {
				t.Errorf("got %v, want %s", err, tt.want)
			}
		})
	}
}
