// Package sqlite is the store's machinery on a SQLite file: connections, the writer that commits
// for several callers at once, errors, and the end of a restore. It knows no table of the store.
package sqlite

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"time"

	sqlite3 "modernc.org/sqlite/lib"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/dberr"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// openWithin bounds how long an open waits for other processes that open the same file.
const openWithin = 30 * time.Second

// DB is a file: one connection that writes, for all callers together, and a pool that reads. All
// methods may be called concurrently.
type DB struct {
	sqldb.Notifier
	dialect *sqldb.Dialect
	clock   *sqldb.Clock
	writer  *writer
	writes  *sql.DB
	reads   *sql.DB
	readers *readers
	limit   time.Duration // of a statement that reads
	closed  atomic.Bool
}

// Open opens the file that config names, makes it when it does not exist, and brings its schema up
// to date. config has its defaults filled in; commits may be nil.
func Open(ctx context.Context, config sqldb.Config, commits Commits) (*DB, error) {
	if config.Path == "" {
		return nil, stacyvm.Invalid("database.path", "is missing")
	}
	path, err := filepath.Abs(config.Path)
	if err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInternal, err, "the database's path cannot be resolved")
	}
	if err := FinishRestore(path); err != nil {
		return nil, err
	}
	if err := makeFile(path); err != nil {
		return nil, err
	}
	s := &DB{
		Notifier: sqldb.Notifier{
			Every: config.WatchEvery,
		},
		dialect: Dialect(path),
		clock:   &sqldb.Clock{Skew: config.Skew},
		limit:   config.QueryTimeout,
	}
	if s.writes, err = Connect(path, 1, false); err != nil {
		return nil, err
	}
	if s.reads, err = Connect(path, max(4, 2*runtime.NumCPU()), true); err != nil {
		return nil, err
	}
	alone, err := newConnector(path, true)
	if err != nil {
		return nil, err
	}
	s.readers = newReaders(alone, max(4, 2*runtime.NumCPU()))
	s.writer = &writer{
		db: s.writes, dialect: s.dialect, clock: s.clock, age: batchAge, notify: s.Broadcast, commits: commits,
	}
	if err := s.prepare(ctx); err != nil {
		_ = s.Close()
		return nil, err
	}
	return s, nil
}

// makeFile makes the file for its owner alone: it holds the environment of sandboxes. SQLite gives
// its side files the same mode.
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

// prepare checks the file, brings the schema up to date and gives a new database its identity.
func (s *DB) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openWithin)
	defer cancel()
	steps := []func() error{
		func() error { return s.check(ctx) },
		func() error { return sqldb.Migrate(ctx, s.dialect, s.writes) },
		func() error { return s.Update(ctx, sqldb.Identify) },
	}
	for _, step := range steps {
		// Other processes may be doing the same: a busy file is tried again.
		for {
			err := step()
			if err == nil {
				break
			}
			if Code(err) != sqlite3.SQLITE_BUSY || ctx.Err() != nil {
				return err
			}
		}
	}
	return nil
}

// check refuses a file that is damaged or no database.
func (s *DB) check(ctx context.Context) error {
	var verdict string
	if err := s.writes.QueryRowContext(ctx, "PRAGMA quick_check(1)").Scan(&verdict); err != nil {
		return s.dialect.Translate(err)
	}
	if verdict != "ok" {
		return dberr.Damaged(errors.New(verdict))
	}
	return nil
}

// View runs read in a read-only transaction of its own.
func (s *DB) View(ctx context.Context, read func(*sqldb.Tx) error) error {
	if s.closed.Load() {
		return dberr.ErrClosed
	}
	err := s.view(ctx, read)
	if stacyvm.CodeOf(err) == stacyvm.CodeInternal && s.closed.Load() {
		return dberr.ErrClosed // meanwhile
	}
	return err
}

// Read runs read, which reads with one statement.
func (s *DB) Read(ctx context.Context, read func(*sqldb.Tx) error) error {
	if err := dberr.Context(ctx); err != nil {
		return err
	}
	conn, err := s.readers.take(ctx)
	if err != nil {
		return s.dialect.ContextError(ctx, err)
	}
	defer s.readers.give(conn)
	t := &sqldb.Tx{Rows: conn, Dialect: s.dialect, Clock: s.clock}
	defer t.End()
	if err := read(t); err != nil {
		return err
	}
	return t.Err()
}

func (s *DB) view(ctx context.Context, read func(*sqldb.Tx) error) error {
	if err := dberr.Context(ctx); err != nil {
		return err
	}
	on, err := s.reads.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return s.dialect.ContextError(ctx, err)
	}
	t := &sqldb.Tx{Conn: on, Dialect: s.dialect, Clock: s.clock, Limit: s.limit}
	defer func() {
		t.End()
		_ = on.Rollback()
	}()
	if err := read(t); err != nil {
		if ended := dberr.Context(ctx); ended != nil && t.Err() != nil {
			return ended // the statement failed because its caller left
		}
		return err
	}
	return t.Err()
}

// Update runs write in a transaction that concurrent callers may share, and returns after its
// commit.
func (s *DB) Update(ctx context.Context, write func(*sqldb.Tx) error) error {
	return s.writer.update(ctx, write)
}

// Cluster gives the database's identity.
func (s *DB) Cluster(ctx context.Context) (cluster sqldb.Cluster, err error) {
	err = s.View(ctx, func(t *sqldb.Tx) error {
		cluster, err = t.Cluster(ctx)
		return err
	})
	return cluster, err
}

// Ping checks that the database answers.
func (s *DB) Ping(ctx context.Context) error {
	_, err := s.Cluster(ctx)
	return err
}

// Close ends all connections. It waits for writes that are under way.
func (s *DB) Close() error {
	if s.closed.Swap(true) {
		return nil
	}
	s.writer.close()
	if err := errors.Join(s.readers.close(), s.reads.Close(), s.writes.Close()); err != nil {
		return stacyvm.Wrap(stacyvm.CodeInternal, err, "the database could not be closed cleanly")
	}
	return nil
}
