package store_test

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	_ "modernc.org/sqlite" // for what a store would not do

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// wantOpen opens and closes a store; its error must have the code and, where the caller gets a
// message, tell no path.
func wantOpen(t *testing.T, config store.Config, want stacyvm.Code) {
	t.Helper()
	s, err := store.Open(t.Context(), config)
	if s != nil {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if stacyvm.CodeOf(err) != want {
		t.Errorf("got %v, want code %q", err, want)
	}
	var e *stacyvm.Error
	if errors.As(err, &e) && (strings.Contains(e.Message, "/") || strings.Contains(e.Message, "secret") || e.Message == "") {
		t.Errorf("the message is %q", e.Message)
	}
}

func TestOpenChoosesTheDriver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a b?c#d%20", "stacyvm.db")
	for _, driver := range []string{"", "sqlite", "sqlite3"} {
		wantOpen(t, store.Config{Driver: driver, Path: path}, "")
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file's mode is %v, %v", info.Mode(), err)
	}
	wantOpen(t, store.Config{Driver: "mysql", Path: path}, stacyvm.CodeInvalid)
	wantOpen(t, store.Config{Driver: "SQLite", Path: path}, stacyvm.CodeInvalid)
	wantOpen(t, store.Config{}, stacyvm.CodeInvalid)
	for _, driver := range []string{"postgres", "postgresql"} {
		wantOpen(t, store.Config{Driver: driver, DSN: "postgres://u:secret@127.0.0.1:1/x"}, stacyvm.CodeUnavailable)
	}
}

func TestOpenRefusesWhatIsNoDatabase(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "text")
	if err := os.WriteFile(file, []byte(strings.Repeat("this is not a database\n", 500)), 0o600); err != nil {
		t.Fatal(err)
	}
	wantOpen(t, store.Config{Path: file}, stacyvm.CodeInvalid)
	wantOpen(t, store.Config{Path: dir}, stacyvm.CodeUnavailable)
	wantOpen(t, store.Config{Path: filepath.Join(file, "below")}, stacyvm.CodeUnavailable)
}

func TestOpenRefusesADamagedFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stacyvm.db")
	wantOpen(t, store.Config{Path: path}, "")
	if left, err := filepath.Glob(path + "-*"); err != nil || len(left) != 0 {
		t.Errorf("a closed database left %v, %v", left, err)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for page := int64(1); page < 8; page++ { // all but the first, which has the header
		if _, err := file.WriteAt([]byte(strings.Repeat("damage", 600)), page*4096); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	wantOpen(t, store.Config{Path: path}, stacyvm.CodeInternal)
}

func TestOpenRefusesANewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stacyvm.db")
	wantOpen(t, store.Config{Path: path}, "")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.ExecContext(t.Context(), `INSERT INTO schema_migrations (version_id, is_applied) VALUES (9999, 1)`); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	wantOpen(t, store.Config{Path: path}, stacyvm.CodeUnsupported)
}

func TestOpenTwiceKeepsEverything(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stacyvm.db")
	var first store.Cluster
	for range 2 {
		s, err := store.NewSQLiteStore(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		cluster, err := s.Cluster(t.Context())
		if err != nil || first.ID != "" && cluster != first {
			t.Errorf("the identity went from %+v to %+v, %v", first, cluster, err)
		}
		first = cluster
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
