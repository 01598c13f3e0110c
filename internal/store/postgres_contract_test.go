package store_test

import (
	"database/sql"
	"fmt"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/storetest"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

func TestPostgresContract(t *testing.T) {
	server := testneed.Postgres(t)
	t.Logf("driver: postgres, %s", serverVersion(t, server))
	storetest.Run(t, func(t *testing.T) func(func() time.Duration) store.Store {
		dsn := newSchema(t, server)
		return func(skew func() time.Duration) store.Store {
			s, err := store.Open(t.Context(), store.Config{Driver: "postgres", DSN: dsn, Skew: skew})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}

// openServer connects past the store, for what a store would not do.
func openServer(t testing.TB, dsn string) *sql.DB {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal("the DSN of the test server cannot be read")
	}
	db := stdlib.OpenDB(*config)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

func serverVersion(t testing.TB, dsn string) (version string) {
	t.Helper()
	if err := openServer(t, dsn).QueryRowContext(t.Context(), `SELECT version()`).Scan(&version); err != nil {
		t.Fatal(err)
	}
	return version
}

var schemas atomic.Int64

// newSchema makes an empty schema that is dropped with the test, and gives the DSN that leads to it.
func newSchema(t testing.TB, server string) (dsn string) {
	t.Helper()
	name := fmt.Sprintf("test_%d_%d", time.Now().UnixNano(), schemas.Add(1))
	db := openServer(t, server)
	if _, err := db.ExecContext(t.Context(), `CREATE SCHEMA `+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // after the stores are closed, and with a context of its own: the test's has ended
		if _, err := db.Exec(`DROP SCHEMA ` + name + ` CASCADE`); err != nil {
			t.Error(err)
		}
	})
	return inSchema(server, name)
}

// inSchema is the DSN with a search_path, in either of its forms.
func inSchema(dsn, schema string) string {
	if at, err := url.Parse(dsn); err == nil && at.Scheme != "" {
		query := at.Query()
		query.Set("search_path", schema)
		at.RawQuery = query.Encode()
		return at.String()
	}
	return dsn + " search_path=" + schema
}
