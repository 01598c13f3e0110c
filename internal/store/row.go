package store

import (
	"context"
	"encoding/json"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// found reads the one row that key names; what names it in the error when it is not there.
func found[T any, K ~string](ctx context.Context, t tx, read func(sqldb.Scanner) (T, error), what string, key K, text string) (T, error) {
	row, ok, err := sqldb.One(ctx, t.Tx, read, text, string(key))
	if err == nil && !ok {
		err = missing(what, string(key))
	}
	return row, err
}

// changed runs an UPDATE ... RETURNING of one row. CodeNotFound: it is not there.
func changed[T any](ctx context.Context, t tx, read func(sqldb.Scanner) (T, error), what, key, text string, args ...any) (T, error) {
	row, ok, err := sqldb.One(ctx, t.Tx, read, text, args...)
	if err == nil && !ok {
		err = missing(what, key)
	}
	return row, err
}

// created runs an INSERT ... ON CONFLICT DO NOTHING RETURNING. CodeConflict: the key, or another unique one, is taken.
func created[T any](ctx context.Context, t tx, read func(sqldb.Scanner) (T, error), what, key, text string, args ...any) (T, error) {
	row, ok, err := sqldb.One(ctx, t.Tx, read, text, args...)
	if err == nil && !ok {
		err = stacyvm.Errorf(stacyvm.CodeConflict, what+" exists already", key)
	}
	return row, err
}

// remove deletes the one row that key names.
func (t tx) remove(ctx context.Context, what, key, text string) error {
	n, err := t.Exec(ctx, text, key)
	if err == nil && n == 0 {
		return missing(what, key)
	}
	return err
}

func missing(what, key string) error {
	return stacyvm.Errorf(stacyvm.CodeNotFound, what+" does not exist", key)
}

// fromMicros converts a stored duration.
func fromMicros(us int64) time.Duration { return time.Duration(us) * time.Microsecond }

// opaque is JSON as it came; the database keeps it as text, an empty one as "".
func opaque(text string) json.RawMessage {
	if text == "" {
		return nil
	}
	return json.RawMessage(text)
}

// toUS and fromUS convert times; the zero time is 0.
func toUS(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func fromUS(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
