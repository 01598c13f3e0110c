// Package postgrestest gives tests a place on a PostgreSQL server: an empty schema on the one that
// STACYVM_POSTGRES_TEST_DSN names, or a server of their own to stop and promote.
package postgrestest

import (
	"crypto/rand"
	"database/sql"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/stacyvm/stacyvm/internal/testneed"
)

// Schema makes an empty schema that is dropped when the test ends, and gives the DSN that leads to
// it.
func Schema(t testing.TB) (dsn string) {
	t.Helper()
	return SchemaOn(t, testneed.Postgres(t))
}

// SchemaOn is Schema on the server that a DSN leads to.
func SchemaOn(t testing.TB, server string) (dsn string) {
	t.Helper()
	name := "test_" + strings.ToLower(rand.Text())
	db := Connect(t, server)
	if _, err := db.ExecContext(t.Context(), `CREATE SCHEMA `+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the stores are closed by now, and the test's context has ended
		if _, err := db.Exec(`DROP SCHEMA ` + name + ` CASCADE`); err != nil {
			t.Error(err)
		}
	})
	return With(server, "search_path", name)
}

// NewDatabase makes an empty database that is dropped when the test ends, and gives its DSN in
// keyword form or as a URL, as server is.
func NewDatabase(t testing.TB, server string) (dsn string) {
	t.Helper()
	name := "dump_" + strings.ToLower(rand.Text())
	db := Connect(t, server)
	if _, err := db.ExecContext(t.Context(), `CREATE DATABASE `+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := db.Exec(`DROP DATABASE ` + name + ` WITH (FORCE)`); err != nil {
			t.Error(err)
		}
	})
	return in(server, name)
}

// in is the DSN of another database on the same server.
func in(dsn, name string) string {
	if at, err := url.Parse(dsn); err == nil && at.Scheme != "" {
		at.Path = "/" + name
		return at.String()
	}
	return dsn + " dbname=" + name // the last one counts
}

// Connect opens connections past the store, for what a store would not do. They end with the test.
func Connect(t testing.TB, dsn string) *sql.DB {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal("the DSN of the test's server cannot be read")
	}
	db := stdlib.OpenDB(*config)
	t.Cleanup(func() {
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return db
}

// With is a DSN, in either of its forms, with one more parameter.
func With(dsn, key, value string) string {
	if at, err := url.Parse(dsn); err == nil && at.Scheme != "" {
		query := at.Query()
		query.Set(key, value)
		at.RawQuery = query.Encode()
		return at.String()
	}
	return dsn + " " + key + "=" + value
}

// Name logs which server the tests run on, and ends the test when there is none.
func Name(t testing.TB) {
	t.Helper()
	var version string
	if err := Connect(t, testneed.Postgres(t)).QueryRowContext(t.Context(), `SELECT version()`).Scan(&version); err != nil {
		t.Fatal(err)
	}
	t.Logf("driver: postgres, %s", version)
}
