package sqlite

import (
	"path/filepath"
	"testing"

	"modernc.org/sqlite"
)

// TestConnectionsWithoutTheirPragmasAreRefused leaves out, or misspells, one pragma after the
// other.
func TestConnectionsWithoutTheirPragmasAreRefused(t *testing.T) {
	all := map[string]string{"busy_timeout": "5000", "journal_mode": "WAL", "synchronous": "FULL", "foreign_keys": "ON"}
	connect := func(without string) error {
		dsn := "file:" + filepath.Join(t.TempDir(), "x.db") + "?_pragme=foreign_keys(1)"
		for name, value := range all {
			if name != without {
				dsn += "&_pragma=" + name + "(" + value + ")"
			}
		}
		if without == "synchronous" {
			dsn += "&_pragma=synchronous(NORMAL)"
		}
		connector, err := sqlite.NewConnector(dsn)
		if err != nil {
			t.Fatal(err)
		}
		conn, err := checked{connector}.Connect(t.Context())
		if err == nil {
			err = conn.Close()
		}
		return err
	}
	for name := range all {
		if connect(name) == nil {
			t.Errorf("a connection without %s was taken", name)
		}
	}
	if err := connect(""); err != nil {
		t.Errorf("a good connection was refused: %v", err)
	}
}
