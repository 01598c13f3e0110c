package store

import (
	"context"
	"database/sql"

	"github.com/pressly/goose/v3"
)

// dialect is all that differs between the databases; every statement is written once.
type dialect struct {
	name  string
	goose goose.Dialect
	// clock reads the database's clock in microseconds; nil where the begin of a transaction brings it.
	clock func(context.Context, querier) (int64, error)
	// rowLock is appended to a SELECT whose row must stay as it is until the end of the transaction; empty where writers
	// take turns.
	rowLock string
	// hold is a query that waits for the other transactions which named the same scope ($1); empty where writers take turns.
	hold string
	// members is the table of a JSON object's members, with the columns key and value: a list as one argument, so that
	// the statement is the same for any length.
	members func(argument string) string
	// integer is the whole number that a JSON object in a column has under a key.
	integer func(column, key string) string
	// word is the text that a JSON object in a column has under a key.
	word func(column, key string) string
	// serial: writing transactions run one after the other, so that what they number is numbered in the order of commits.
	serial bool
	// words fill the migrations.
	words map[string]string
	// translate turns a driver's error into one of ours.
	translate func(error) error
}

// querier runs statements: a connection or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	ExecContext(ctx context.Context, query string, args ...any) (sql.Result, error)
}
