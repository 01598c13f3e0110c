package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon/daemontest"
	"github.com/stacyvm/stacyvm/internal/flock"
	"github.com/stacyvm/stacyvm/internal/node"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/dbtool"
)

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
	c := daemontest.Config(t)
	if _, _, err := dbtool.Migrate(t.Context(), StoreConfig(c)); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "backup")
	if _, err := backUp(t, c, "", out, false); err != nil {
		t.Fatal(err)
	}
	serving := must[*flock.Lock](t)(flock.Try(filepath.Join(c.DataDir, node.ServeLock)))
	if _, err := backUp(t, c, "", out, true); err != nil {
		t.Errorf("a backup under a server: %v", err)
	}
	_, err := RestoreDatabase(t.Context(), c, out, "")
	daemontest.WantCode(t, err, stacyvm.CodeConflict)
	_, err = RaiseIncarnation(t.Context(), c)
	daemontest.WantCode(t, err, stacyvm.CodeConflict)
	serving.Release()
	done := must[dbtool.Restored](t)(RestoreDatabase(t.Context(), c, out, ""))
	if found := must[dbtool.Schema](t)(dbtool.Inspect(t.Context(), StoreConfig(c))); found.Cluster.Incarnation != done.Incarnation || done.Incarnation != 2 {
		t.Errorf("incarnation %d, told was %d", found.Cluster.Incarnation, done.Incarnation)
	}
	if raised := must[int64](t)(RaiseIncarnation(t.Context(), c)); raised != 3 {
		t.Errorf("raised to %d", raised)
	}
	must[*flock.Lock](t)(flock.Try(filepath.Join(c.DataDir, node.ServeLock))).Release() // it was let go
}

// TestRestoreRisesAboveTheJournal has lost the database of the latest incarnation: the worker
// still knows of it.
func TestRestoreRisesAboveTheJournal(t *testing.T) {
	c := daemontest.Config(t)
	if _, _, err := dbtool.Migrate(t.Context(), StoreConfig(c)); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "backup")
	must[dbtool.Backup](t)(backUp(t, c, "", out, false))
	journal := node.SharedPlace(c.DataDir, "").Worker
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
	c := daemontest.Config(t)
	if _, _, err := dbtool.Migrate(t.Context(), StoreConfig(c)); err != nil {
		t.Fatal(err)
	}
	file := c.DatabasePath()
	c.Database.Driver, c.Database.DSN = "postgres", "host=/nowhere"
	out := filepath.Join(t.TempDir(), "backup")
	_, err := backUp(t, c, "", out, false)
	daemontest.WantCode(t, err, stacyvm.CodeInvalid)
	_, err = RestoreDatabase(t.Context(), c, out, "")
	daemontest.WantCode(t, err, stacyvm.CodeInvalid)
	must[dbtool.Backup](t)(backUp(t, c, file, out, false))
	must[dbtool.Restored](t)(RestoreDatabase(t.Context(), c, out, file))
}
