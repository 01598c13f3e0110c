package store_test

import (
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
	"github.com/stacyvm/stacyvm/internal/store/storetest"
)

func TestMain(m *testing.M) {
	childMain()
	goleak.VerifyTestMain(m)
}

// database makes an empty database and says how to open it.
type database func(testing.TB) store.Config

// drivers are all that a store can be on. The one for PostgreSQL ends its test when there is no
// server.
var drivers = map[string]database{
	"sqlite": func(t testing.TB) store.Config {
		return store.Config{Path: filepath.Join(t.TempDir(), "data", "stacyvm.db")}
	},
	"postgres": func(t testing.TB) store.Config { return store.Config{Driver: "postgres", DSN: postgrestest.Schema(t)} },
}

// onEachDriver runs a test on an empty database of each driver.
func onEachDriver(t *testing.T, test func(*testing.T, store.Config)) {
	for name, make := range drivers {
		t.Run("driver="+name, func(t *testing.T) {
			t.Parallel()
			test(t, make(t))
		})
	}
}

// open opens a store that ends with the test.
func open(t testing.TB, config store.Config) store.Store {
	t.Helper()
	s, err := store.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestSQLiteContract(t *testing.T) { contract(t, drivers["sqlite"]) }

// TestSQLiteAloneContract: a store that is alone answers from memory as others from their file.
// What takes several stores gets the one.
func TestSQLiteAloneContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func(func() time.Duration) store.Store {
		config := drivers["sqlite"](t)
		config.Alone = true
		var one store.Store
		return func(skew func() time.Duration) store.Store {
			if one != nil {
				return unclosed{one}
			}
			config.Skew = skew
			one = open(t, config)
			return unclosed{one}
		}
	}, "transaction/closed")
}

// unclosed is a store that others use too.
type unclosed struct{ store.Store }

func (unclosed) Close() error { return nil }

func TestPostgresContract(t *testing.T) {
	postgrestest.Name(t)
	contract(t, drivers["postgres"])
}

func contract(t *testing.T, make database, without ...string) {
	storetest.Run(t, func(t *testing.T) func(func() time.Duration) store.Store {
		config := make(t)
		return func(skew func() time.Duration) store.Store {
			config.Skew = skew
			s, err := store.Open(t.Context(), config)
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	}, without...)
}
