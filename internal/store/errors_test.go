package store

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

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
			_, err := x.(*tx).exec(t.Context(), text)
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

func TestBusyFileIsUnavailable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stacyvm.db")
	first, err := NewSQLiteStore(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close() }()
	second, err := NewSQLiteStore(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	if err := second.(*sqliteStore).writer.run("PRAGMA busy_timeout = 1"); err != nil {
		t.Fatal(err)
	}
	err = first.Update(t.Context(), func(Tx) error {
		if err := second.Update(t.Context(), func(Tx) error { return nil }); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
			t.Errorf("writing to a busy file: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := second.Update(t.Context(), func(Tx) error { return nil }); err != nil {
		t.Errorf("the file is free again: %v", err)
	}
}

// TestContextEndsALongRead gives up a query that would run for minutes, and the connection is good afterwards.
func TestContextEndsALongRead(t *testing.T) {
	s := openTest(t)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	endless := `WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000000000) SELECT count(*) FROM n`
	began := time.Now()
	err := s.View(ctx, func(x Tx) error {
		_, _, err := one(ctx, x.(*tx), number, endless)
		return err
	})
	if stacyvm.CodeOf(err) != stacyvm.CodeUnavailable || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 20*time.Second {
		t.Errorf("after %s: %v", time.Since(began), err)
	}
	if err := s.Ping(t.Context()); err != nil {
		t.Error(err)
	}
}
