package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	"modernc.org/sqlite"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// openWithin bounds how long an open waits for other processes that open the same file.
const openWithin = 30 * time.Second

// pragmas are what every connection must have, with the value that SQLite reports for it.
var pragmas = []struct{ name, set, reads string }{
	{"busy_timeout", "5000", "5000"}, // first: it covers the others
	{"journal_mode", "WAL", "wal"},
	{"synchronous", "FULL", "2"},
	{"foreign_keys", "ON", "1"},
}

// sqliteStore is a file: one connection that writes, for all callers together, and a pool that reads.
type sqliteStore struct {
	bell
	dialect *dialect
	clock   *clock
	writer  *writer
	writes  *sql.DB
	reads   *sql.DB
	limit   time.Duration // of a statement that reads
	closed  atomic.Bool
}

func openSQLite(ctx context.Context, config Config) (Store, error) {
	if config.Path == "" {
		return nil, stacyvm.Invalid("database.path", "is missing")
	}
	path, err := filepath.Abs(config.Path)
	if err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInternal, err, "the database's path cannot be resolved")
	}
	if err := finishRestore(path); err != nil {
		return nil, err
	}
	if err := makeFile(path); err != nil {
		return nil, err
	}
	s := &sqliteStore{bell: bell{every: watchEvery}, dialect: sqliteDialect(path), clock: &clock{skew: config.Skew}, limit: config.queryTimeout()}
	if s.writes, err = connectSQLite(path, 1, false); err != nil {
		return nil, err
	}
	if s.reads, err = connectSQLite(path, max(4, 2*runtime.NumCPU()), true); err != nil {
		return nil, err
	}
	s.writer = &writer{db: s.writes, dialect: s.dialect, clock: s.clock, age: batchAge, told: s.ring}
	if err := s.prepare(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// makeFile makes the file for its owner alone: it holds the environment of sandboxes. SQLite gives its side files the
// same mode.
func makeFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the directory of the database cannot be made")
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the database file cannot be opened")
	}
	return file.Close()
}

// connectSQLite makes a pool whose every connection has the pragmas.
func connectSQLite(path string, size int, readOnly bool) (*sql.DB, error) {
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
	db := sql.OpenDB(checked{connector})
	db.SetMaxOpenConns(size)
	db.SetMaxIdleConns(size)
	return db, nil
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

// prepare checks the file, brings the schema up to date and gives a new database its identity.
func (s *sqliteStore) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openWithin)
	defer cancel()
	steps := []func() error{
		func() error { return s.check(ctx) },
		func() error { return migrate(ctx, s.dialect, s.writes) },
		func() error { return s.Update(ctx, identify) },
	}
	for _, step := range steps {
		// Other processes may be doing the same: a busy file is tried again.
		for {
			err := step()
			if err == nil {
				break
			}
			if sqliteCode(err) != codeBusy || ctx.Err() != nil {
				return err
			}
		}
	}
	return nil
}

// check refuses a file that is damaged or no database.
func (s *sqliteStore) check(ctx context.Context) error {
	var verdict string
	if err := s.writes.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return s.dialect.translate(err)
	}
	if verdict != "ok" {
		return damaged(errors.New(verdict))
	}
	return nil
}

// View implements Store.
func (s *sqliteStore) View(ctx context.Context, read func(Tx) error) error {
	if s.closed.Load() {
		return errClosed
	}
	err := view(ctx, s.reads, s.dialect, s.clock, s.limit, read)
	if stacyvm.CodeOf(err) == stacyvm.CodeInternal && s.closed.Load() {
		return errClosed // meanwhile
	}
	return err
}

// Update implements Store.
func (s *sqliteStore) Update(ctx context.Context, write func(Tx) error) error {
	return s.writer.update(ctx, write)
}

// Cluster implements Store.
func (s *sqliteStore) Cluster(ctx context.Context) (cluster Cluster, err error) {
	err = s.View(ctx, func(x Tx) error {
		cluster, err = identity(ctx, x.(*tx))
		return err
	})
	return cluster, err
}

// Ping implements Store.
func (s *sqliteStore) Ping(ctx context.Context) error {
	_, err := s.Cluster(ctx)
	return err
}

// Close implements Store. It waits for writes that are under way.
func (s *sqliteStore) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.writer.close()
	if err := errors.Join(s.reads.Close(), s.writes.Close()); err != nil {
		return stacyvm.Wrap(stacyvm.CodeInternal, err, "the database could not be closed cleanly")
	}
	return nil
}

// errClosed is the answer after Close.
var errClosed = stacyvm.Errorf(stacyvm.CodeUnavailable, "the database is closed")
