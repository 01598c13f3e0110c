package controltest

import (
	"flag"
	"os"
	"testing"
)

// onPostgres says which database OpenStore opens.
var onPostgres bool

// havePostgres reports whether there is a server for tests.
func havePostgres() bool { return os.Getenv("STACYVM_POSTGRES_TEST_DSN") != "" }

// databases runs a package's tests once for each database.
type databases struct{ *testing.M }

// OnEachDatabase runs a package's tests on SQLite and, where STACYVM_POSTGRES_TEST_DSN names a
// server, again on PostgreSQL. Benchmarks open databases of their own and run once.
func OnEachDatabase(m *testing.M) interface{ Run() int } { return databases{m} }

// Run implements goleak.TestingM.
func (d databases) Run() int {
	code := d.M.Run()
	if code != 0 || !havePostgres() || flag.Lookup("test.bench").Value.String() != "" {
		return code
	}
	onPostgres = true
	return d.M.Run()
}
