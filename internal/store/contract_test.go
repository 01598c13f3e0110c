package store_test

import (
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/storetest"
)

func TestMain(m *testing.M) {
	childMain()
	goleak.VerifyTestMain(m)
}

func TestSQLiteContract(t *testing.T) {
	storetest.Run(t, func(t *testing.T) func(func() time.Duration) store.Store {
		path := filepath.Join(t.TempDir(), "data", "stacyvm.db")
		return func(skew func() time.Duration) store.Store {
			s, err := store.Open(t.Context(), store.Config{Path: path, Skew: skew})
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
	})
}
