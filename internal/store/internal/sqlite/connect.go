package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"modernc.org/sqlite"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/dberr"
)

// pragmas are what every connection must have, with the value that SQLite reports for it.
var pragmas = []struct{ name, set, reads string }{
	{"busy_timeout", "5000", "5000"}, // first: it covers the others
	{"journal_mode", "WAL", "wal"},
	{"synchronous", "FULL", "2"},
	{"foreign_keys", "ON", "1"},
}

// Connect makes a pool whose every connection has the pragmas.
func Connect(path string, size int, readOnly bool) (*sql.DB, error) {
	connector, err := newConnector(path, readOnly)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	return db, nil
}

// newConnector makes connections that have the pragmas.
func newConnector(path string, readOnly bool) (driver.Connector, error) {
	query := url.Values{"_txlock": {"immediate"}}
	for _, p := range pragmas {
		query.Add("_pragma", p.name+"("+p.set+")")
	}
	if readOnly {
		query.Set("_txlock", "deferred")
		query.Add("_pragma", "query_only(ON)")
	}
	file := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: query.Encode()}
	connector, err := sqlite.NewConnector(file.String())
	if err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInternal, err, "the database's path cannot be used")
	}
	return checked{connector}, nil
}

// checked reads the pragmas of each new connection back: a driver ignores a spelling that it does not know.
type checked struct{ driver.Connector }

// Connect implements driver.Connector.
func (c checked) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range pragmas {
		if err := readBack(ctx, conn, p.name, p.reads); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
	}
	return conn, nil
}

func readBack(ctx context.Context, conn driver.Conn, pragma, want string) error {
	queryer, ok := conn.(driver.QueryerContext)
	if !ok {
		return errors.New("the driver cannot query")
	}
	rows, err := queryer.QueryContext(ctx, "PRAGMA "+pragma, nil)
	if err != nil {
		return err
	}
	value := make([]driver.Value, 1)
	if err := errors.Join(rows.Next(value), rows.Close()); err != nil {
		return fmt.Errorf("read pragma %s: %w", pragma, err)
	}
	if got := fmt.Sprint(value[0]); got != want {
		return fmt.Errorf("pragma %s is %s instead of %s", pragma, got, want)
	}
	return nil
}

// OpenFile opens a SQLite file that exists, with one connection, and changes nothing of it.
func OpenFile(path string, pragmas ...string) (*sql.DB, error) {
	path, err := filepath.Abs(path)
	if err == nil {
		_, err = os.Stat(path)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, "there is no such database")
	}
	if err != nil {
		return nil, dberr.Unreadable(err)
	}
	query := url.Values{"mode": {"rw"}, "_pragma": {"busy_timeout(5000)"}}
	for _, pragma := range pragmas {
		query.Add("_pragma", pragma)
	}
	file := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: query.Encode()}
	db, err := sql.Open("sqlite", file.String())
	if err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInternal, err, "the database's path cannot be used")
	}
	db.SetMaxOpenConns(1)
	return db, nil
}
