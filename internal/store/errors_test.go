package store

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

func openTest(t *testing.T) Store {
	t.Helper()
	s, err := NewSQLiteStore(t.Context(), filepath.Join(t.TempDir(), "stacyvm.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// TestErrorsTellNoSQL provokes the driver's errors and looks at what a caller gets.
func TestErrorsTellNoSQL(t *testing.T) {
	s := openTest(t)
	again := `INSERT INTO cluster (one, id, incarnation, created_us) VALUES (1, 'secret', 1, 1)`
	for text, want := range map[string]stacyvm.Code{
		again: stacyvm.CodeConflict,
		`INSERT INTO cluster (one, id, incarnation, created_us) VALUES (2, 'secret', 1, 1)`: stacyvm.CodeInternal,
		`SELECT secret FROM nowhere`: stacyvm.CodeInternal,
	} {
		err := s.Update(t.Context(), func(x Tx) error {
			_, err := x.(tx).Exec(t.Context(), text)
			return err
		})
		var e *stacyvm.Error
		if !errors.As(err, &e) || e.Code != want {
			t.Errorf("%s: got %v, want code %q", text, err, want)
			continue
		}
		for _, told := range []string{"secret", "cluster", "nowhere", "/", "SQL"} {
			if strings.Contains(e.Message, told) {
				t.Errorf("%s: the message tells %q: %s", text, told, e.Message)
			}
		}
	}
}

// TestContextEndsALongRead gives up a query that would run for minutes, and the connection is good
// afterwards.
func TestContextEndsALongRead(t *testing.T) {
	s := openTest(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	endless := `WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT count(*) FROM n`
	began := time.Now()
	err := s.View(ctx, func(x Tx) error {
		_, _, err := sqldb.One(ctx, x.(tx).Tx, sqldb.ScanInt, endless)
		return err
	})
	if stacyvm.CodeOf(err) != stacyvm.CodeUnavailable || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 20*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
