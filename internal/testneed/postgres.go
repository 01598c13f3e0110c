package testneed

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// Postgres needs a PostgreSQL server and gives its DSN: STACYVM_POSTGRES_TEST_DSN, which `make
// test` sets. The user must be allowed to make schemas. See scripts/postgres.sh for a server of
// one's own.
func Postgres(t testing.TB) (dsn string) {
	t.Helper()
	dsn = os.Getenv("STACYVM_POSTGRES_TEST_DSN")
	if dsn == "" {
		Missing(t, "postgres", "STACYVM_POSTGRES_TEST_DSN is not set: scripts/postgres.sh starts a server for it")
	}
	return dsn
}

// PostgresServer needs PostgreSQL's server to be installed, so that a test can start one of its
// own. -short leaves it out.
func PostgresServer(t testing.TB) {
	t.Helper()
	if testing.Short() {
		Missing(t, "postgres", leftOut)
	}
	if _, err := exec.LookPath("initdb"); err == nil {
		return
	}
	if found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/initdb"); len(found) == 0 {
		Missing(t, "postgres", "PostgreSQL's server is not installed")
	}
}
