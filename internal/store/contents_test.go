package store_test

import (
	"context"
	"database/sql"
	"fmt"
	"testing"

	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
)

// line is one row of a table: its columns by their names, NULL as "NULL".
type line map[string]string

// contents reads every row of every table of a database, past the store.
func contents(t *testing.T, config store.Config) map[string][]line {
	t.Helper()
	db, tables := raw(t, config), `SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT GLOB 'sqlite_*'`
	if config.Driver == "postgres" {
		tables = `SELECT tablename FROM pg_tables WHERE schemaname = current_schema()`
	}
	found := map[string][]line{}
	for _, table := range readAll(t, db, tables) {
		for _, name := range table {
			found[name] = readAll(t, db, `SELECT * FROM `+name)
		}
	}
	return found
}

// raw is a database without the store.
func raw(t *testing.T, config store.Config) *sql.DB {
	t.Helper()
	if config.Driver == "postgres" {
		return postgrestest.Connect(t, config.DSN)
	}
	db, err := sql.Open("sqlite", "file:"+config.Path+"?mode=rw&_pragma=busy_timeout(5000)")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func readAll(t *testing.T, db *sql.DB, query string) []line {
	t.Helper()
	lines, err := ask(t.Context(), db, query)
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

func ask(ctx context.Context, db *sql.DB, query string) (lines []line, err error) {
	rows, err := db.QueryContext(ctx, query)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }()
	columns, err := rows.Columns()
	if err != nil {
		return nil, err
	}
	values, places := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		places[i] = &values[i]
	}
	for rows.Next() {
		if err := rows.Scan(places...); err != nil {
			return nil, err
		}
		row := line{}
		for i, column := range columns {
			switch value := values[i].(type) {
			case nil:
				row[column] = "NULL"
			case []byte:
				row[column] = string(value)
			default:
				row[column] = fmt.Sprint(value)
			}
		}
		lines = append(lines, row)
	}
	return lines, rows.Err()
}
