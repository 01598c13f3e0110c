package dbtool_test

import (
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/dbtool"
	"github.com/stacyvm/stacyvm/internal/store/migrations"
	"github.com/stacyvm/stacyvm/internal/store/storetest"
)

// filed is a directory with a database that was closed, and a backup of an earlier moment.
type filed struct {
	path, backup  string
	kept, lost    stacyvm.SandboxID // in both; in the database alone
	cluster       store.Cluster
	backedUp      dbtool.Backup
	before, after map[stacyvm.SandboxID]stacyvm.Sandbox
}

func fileAway(t *testing.T) filed {
	t.Helper()
	dir := t.TempDir()
	f := filed{path: filepath.Join(dir, "data", "stacyvm.db"), backup: filepath.Join(dir, "backup")}
	s, err := store.NewSQLiteStore(t.Context(), f.path)
	if err != nil {
		t.Fatal(err)
	}
	add := func() stacyvm.SandboxID {
		id, err := storetest.AddSandboxes(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	f.kept = add()
	f.before = liveRows(t, s)
	if f.backedUp, err = dbtool.BackupSQLite(t.Context(), dbtool.BackupRequest{Database: f.path, Out: f.backup}); err != nil {
		t.Fatal(err)
	}
	f.lost = add()
	f.after = liveRows(t, s)
	if f.cluster, err = s.Cluster(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f filed) restore(t *testing.T) (dbtool.Restored, error) {
	t.Helper()
	return dbtool.RestoreSQLite(t.Context(), dbtool.RestoreRequest{Backup: f.backup, Database: f.path})
}

func TestRestore(t *testing.T) {
	f := fileAway(t)
	killed := f.path + ".restoring"
	if err := errors.Join(os.Mkdir(killed, 0o700), os.WriteFile(filepath.Join(killed, "stacyvm.db"), []byte("half"), 0o600)); err != nil {
		t.Fatal(err)
	}
	done, err := f.restore(t)
	if err != nil {
		t.Fatal(err)
	}
	if done.Unsummed || done.Incarnation != f.cluster.Incarnation+1 || done.SHA256 != f.backedUp.SHA256 || done.Known != done.Schema || done.Sandboxes != len(f.before) {
		t.Errorf("restored %+v of %+v", done, f.backedUp)
	}
	wantFiles(t, filepath.Dir(f.path), "stacyvm.db", filepath.Base(done.Safety))
	s := openAt(t, f.path)
	cluster, err := s.Cluster(t.Context())
	if err != nil || cluster.ID != f.cluster.ID || cluster.Incarnation != done.Incarnation {
		t.Errorf("the cluster is %+v, %v", cluster, err)
	}
	rows := liveRows(t, s)
	for id, was := range f.before {
		is := rows[id]
		if is.Fence.Compare(was.Fence) <= 0 || is.Fence.Epoch != was.Fence.Epoch || is.OwnerID != was.OwnerID || !is.CreatedAt.Equal(was.CreatedAt) {
			t.Errorf("%s became %+v, was %+v", id, is, was)
		}
	}
	if len(rows) != len(f.before) {
		t.Errorf("%d rows, want %d", len(rows), len(f.before))
	}
	if kept := liveRows(t, openAt(t, done.Safety)); len(kept) != len(f.after) {
		t.Errorf("the safety copy has %d rows, want %d", len(kept), len(f.after))
	}
	if info, err := os.Stat(f.path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestRestoreTwice puts the same backup back again: the incarnation of the time in between never
// comes back.
func TestRestoreTwice(t *testing.T) {
	f := fileAway(t)
	for i := range int64(3) {
		done, err := f.restore(t)
		if err != nil || done.Incarnation != f.cluster.Incarnation+1+i {
			t.Errorf("incarnation %d, %v", done.Incarnation, err)
		}
	}
	if err := os.Remove(f.path); err != nil {
		t.Fatal(err)
	}
	done, err := dbtool.RestoreSQLite(t.Context(), dbtool.RestoreRequest{Backup: f.backup, Database: f.path, Above: 41})
	if err != nil || done.Incarnation != 42 || done.Safety != "" {
		t.Errorf("%+v, %v", done, err)
	}
}

// TestRestoreOverDamage has a database that cannot be read, with a log beside it that must not
// reach the new one.
func TestRestoreOverDamage(t *testing.T) {
	f := fileAway(t)
	for suffix, content := range map[string]string{"": "this was a database once, long ago and far away", "-wal": "rubbish", "-shm": "more"} {
		if err := os.WriteFile(f.path+suffix, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	done, err := f.restore(t)
	if err != nil {
		t.Fatal(err)
	}
	safety := filepath.Base(done.Safety)
	wantFiles(t, filepath.Dir(f.path), "stacyvm.db", safety, safety+"-shm", safety+"-wal")
	if rows := liveRows(t, openAt(t, f.path)); len(rows) != len(f.before) {
		t.Errorf("%d rows, want %d", len(rows), len(f.before))
	}
}

// TestRestoreRefuses leaves the database as it is.
func TestRestoreRefuses(t *testing.T) {
	edit := func(change func(t *testing.T, content []byte) []byte) func(*testing.T, filed) {
		return func(t *testing.T, f filed) {
			content, err := os.ReadFile(f.backup)
			if err == nil {
				err = os.WriteFile(f.backup, change(t, content), 0o600)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	unsummed := func(t *testing.T, f filed) {
		if err := os.Remove(f.backup + ".sha256"); err != nil {
			t.Fatal(err)
		}
	}
	statement := func(text string) func(*testing.T, filed) {
		return func(t *testing.T, f filed) {
			unsummed(t, f)
			alter(t, f.backup, text)
		}
	}
	flip := edit(func(_ *testing.T, content []byte) []byte { content[len(content)/2] ^= 1; return content })
	tests := []struct {
		name   string
		change func(*testing.T, filed)
		want   stacyvm.Code
	}{
		{"one bit is wrong", flip, stacyvm.CodeInvalid},
		{"cut off", edit(func(_ *testing.T, content []byte) []byte { return content[:len(content)-5000] }), stacyvm.CodeInvalid},
		{"cut off, without a checksum", func(t *testing.T, f filed) {
			unsummed(t, f)
			edit(func(_ *testing.T, content []byte) []byte { return content[:len(content)-5000] })(t, f)
		}, stacyvm.CodeInternal},
		{"no database", func(t *testing.T, f filed) {
			unsummed(t, f)
			edit(func(*testing.T, []byte) []byte { return make([]byte, 20000) })(t, f)
		}, stacyvm.CodeInvalid},
		{"empty", func(t *testing.T, f filed) {
			unsummed(t, f)
			edit(func(*testing.T, []byte) []byte { return nil })(t, f)
		}, stacyvm.CodeInvalid},
		{"another program's database", statement(`DROP TABLE cluster`), stacyvm.CodeInvalid},
		{"a newer schema", statement(`INSERT INTO schema_migrations (version_id, is_applied) VALUES (9000, true)`), stacyvm.CodeUnsupported},
		{"the checksum is none", func(t *testing.T, f filed) {
			if err := os.WriteFile(f.backup+".sha256", []byte("hello"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, stacyvm.CodeInvalid},
		{"a database in use", func(t *testing.T, f filed) {
			if err := os.WriteFile(f.backup+"-wal", nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}, stacyvm.CodeInvalid},
		{"it is not there", func(t *testing.T, f filed) {
			if err := os.Remove(f.backup); err != nil {
				t.Fatal(err)
			}
		}, stacyvm.CodeInvalid},
		{"another process has the database open", func(t *testing.T, f filed) { _ = openAt(t, f.path) }, stacyvm.CodeConflict},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := fileAway(t)
			tt.change(t, f)
			if _, err := f.restore(t); stacyvm.CodeOf(err) != tt.want {
				t.Errorf("got %v, want %s", err, tt.want)
			}
			if rows := liveRows(t, openAt(t, f.path)); len(rows) != len(f.after) {
				t.Errorf("%d rows, want %d", len(rows), len(f.after))
			}
		})
	}
}

// TestRestoreOfAnotherCluster is refused as long as the present one has sandboxes: nobody would
// look after them.
func TestRestoreOfAnotherCluster(t *testing.T) {
	f, other := fileAway(t), fileAway(t)
	request := dbtool.RestoreRequest{Backup: other.backup, Database: f.path}
	if _, err := dbtool.RestoreSQLite(t.Context(), request); stacyvm.CodeOf(err) != stacyvm.CodeConflict {
		t.Errorf("over sandboxes of another cluster: %v", err)
	}
	request.Database = filepath.Join(t.TempDir(), "empty.db")
	s, err := store.NewSQLiteStore(t.Context(), request.Database)
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	if done, err := dbtool.RestoreSQLite(t.Context(), request); err != nil || done.Cluster.ID != other.cluster.ID {
		t.Errorf("over an empty database: %+v, %v", done, err)
	}
}

func TestRestoreWithoutChecksum(t *testing.T) {
	f := fileAway(t)
	if err := os.Remove(f.backup + ".sha256"); err != nil {
		t.Fatal(err)
	}
	if done, err := f.restore(t); err != nil || !done.Unsummed {
		t.Errorf("%+v, %v", done, err)
	}
}

// alter runs a statement on a file past the store.
func alter(t *testing.T, path, text string) {
	t.Helper()
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := db.ExecContext(t.Context(), text); err != nil {
		t.Fatal(err)
	}
}

// TestRestoreAfterAnUpgrade goes back: a newer program has changed the database since.
func TestRestoreAfterAnUpgrade(t *testing.T) {
	f := fileAway(t)
	alter(t, f.path, `INSERT INTO schema_migrations (version_id, is_applied) VALUES (9000, true); ALTER TABLE leases ADD COLUMN novelty TEXT`)
	if done, err := f.restore(t); err != nil || done.Incarnation != f.cluster.Incarnation+1 || done.Known != done.Schema {
		t.Errorf("%+v, %v", done, err)
	}
	if rows := liveRows(t, openAt(t, f.path)); len(rows) != len(f.before) {
		t.Errorf("%d rows, want %d", len(rows), len(f.before))
	}
}

// TestRestoreOfAnOlderSchema brings a backup of the first schema up to date.
func TestRestoreOfAnOlderSchema(t *testing.T) {
	steps, err := migrations.Steps(map[string]string{"serial": "INTEGER PRIMARY KEY", "postgres": "-- ", "stored": "VIRTUAL"})
	if err != nil {
		t.Fatal(err)
	}
	backup := filepath.Join(t.TempDir(), "old")
	alter(t, backup, steps[0].Text+`;
		CREATE TABLE schema_migrations (id INTEGER PRIMARY KEY AUTOINCREMENT, version_id INTEGER NOT NULL, is_applied INTEGER NOT NULL, tstamp TIMESTAMP DEFAULT (datetime('now')));
		INSERT INTO schema_migrations (version_id, is_applied) VALUES (0, 1), (1, 1);
		INSERT INTO cluster (one, id, incarnation, created_us) VALUES (1, 'old', 5, 0)`)
	path := filepath.Join(t.TempDir(), "stacyvm.db")
	done, err := dbtool.RestoreSQLite(t.Context(), dbtool.RestoreRequest{Backup: backup, Database: path})
	if err != nil || done.Schema != 1 || done.Known != int64(len(steps)) || done.Incarnation != 6 {
		t.Errorf("%+v, %v", done, err)
	}
	if cluster, err := openAt(t, path).Cluster(t.Context()); err != nil || cluster.ID != "old" || cluster.Incarnation != 6 {
		t.Errorf("%+v, %v", cluster, err)
	}
}

// TestRestoreInterrupted gives a restore up at each place where it looks at its context: the
// database is as it was, and nothing is left beside it.
func TestRestoreInterrupted(t *testing.T) {
	f := fileAway(t)
	for looks := int64(0); ; looks++ {
		ctx := &countdown{Context: t.Context()}
		ctx.left.Store(looks)
		_, err := dbtool.RestoreSQLite(ctx, dbtool.RestoreRequest{Backup: f.backup, Database: f.path})
		if err == nil {
			if looks < 5 {
				t.Errorf("the restore looked at its context %d times", looks)
			}
			return
		}
		wantFiles(t, filepath.Dir(f.path), "stacyvm.db")
		found, failed := dbtool.Inspect(t.Context(), store.Config{Path: f.path})
		if stacyvm.CodeOf(err) != stacyvm.CodeUnavailable || failed != nil || found.Cluster != f.cluster || looks > 1000 {
			t.Fatalf("after %d looks: %v; the cluster is %+v, %v", looks, err, found.Cluster, failed)
		}
	}
}
