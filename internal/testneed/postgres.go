package testneed

import (
	"os"
	"testing"
)

// Postgres needs a PostgreSQL server and gives its DSN: STACYVM_POSTGRES_TEST_DSN, which `make test` sets. The user must be
// allowed to make schemas. See scripts/postgres.sh for a server of one's own.
func Postgres(t testing.TB) (dsn string) {
	t.Helper()
	dsn = os.Getenv("STACYVM_POSTGRES_TEST_DSN")
	if dsn == "" {
		Missing(t, "postgres", "STACYVM_POSTGRES_TEST_DSN is not set: scripts/postgres.sh starts a server for it")
	}
	return dsn
}
