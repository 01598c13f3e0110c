package sqldb

import (
	"context"
	"database/sql"

	"github.com/pressly/goose/v3"

	"github.com/stacyvm/stacyvm/internal/store/internal/dberr"
)

// Dialect is all that differs between the databases; every statement is written once.
type Dialect struct {
	Goose goose.Dialect // the migrations' word for it
	// Clock reads the database's clock in microseconds, unless the begin of a transaction brought
	// it.
	Clock func(context.Context, Querier) (int64, error)
	Bytes string // the type of bytes
	// Now is the clock as a term of a statement, the same within a transaction; empty where the
	// clock costs nothing to read.
	Now string
	// RowLock is appended to a SELECT whose row must stay as it is until the end of the
	// transaction; empty where writers take turns.
	RowLock string
	// AdvisoryLock is a query that waits for the other transactions which named the same scope
	// ($1); empty where writers take turns.
	AdvisoryLock string
	// Members is the table of a JSON object's members, with the columns key and value: a list as
	// one argument, so that the statement is the same for any length.
	Members func(argument string) string
	// Integer is the whole number that a JSON object in a column has under a key.
	Integer func(column, key string) string
	// Word is the text that a JSON object in a column has under a key.
	Word func(column, key string) string
	// Serial: writing transactions run one after the other, so that what they number is numbered
	// in the order of commits.
	Serial bool
	// Words fill the migrations.
	Words map[string]string
	// Translate turns a driver's error into one of ours.
	Translate func(error) error
}

// Querier runs statements: a connection or a transaction.
type Querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}

// ContextError translates a driver's error, or gives the context's when that ended and so was the
// cause.
func (d *Dialect) ContextError(ctx context.Context, err error) error {
	if ended := dberr.Context(ctx); ended != nil {
		return ended
	}
	return d.Translate(err)
}
