// Package postgres is the store's machinery on a PostgreSQL server: connections, transactions that are tried again, errors,
// the server's history, and the messages between processes that wake watchers. Of the store's tables it knows the one that
// holds the database's identity; what it needs of others it is given as Tables.
package postgres

import (
	"context"
	"database/sql"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// Tables is what this package needs done to tables of the store. Each is called within a transaction.
type Tables struct {
	// BumpIncarnation makes the next incarnation of the database.
	BumpIncarnation func(context.Context, *sqldb.Tx) error
	// Unnumbered tells whether an event has no number yet, and the last number.
	Unnumbered func(context.Context, *sqldb.Tx) (waiting bool, last int64, err error)
	// Number gives numbers to events without one. more: some may be left. last is the last number.
	Number func(context.Context, *sqldb.Tx) (more bool, last int64, err error)
}

// DB is a database on a server, for any number of processes. All methods may be called concurrently.
type DB struct {
	sqldb.Notifier
	tables         Tables
	dialect        *sqldb.Dialect
	clock          *sqldb.Clock
	db             *sql.DB
	idle           int // connections that the pool keeps
	connectTimeout time.Duration
	limit          time.Duration // of a statement
	timeline       atomic.Value  // string: the server's, as it was last seen
	history        History
	warn           func(string)

	announcer *announcer

	mu     sync.RWMutex
	closed bool
	inside sync.WaitGroup // transactions
}

// Open connects to the server that config names and brings the schema up to date. config has its defaults filled in.
func Open(ctx context.Context, config sqldb.Config, tables Tables) (*DB, error) {
	db, password, err := Connect(config)
	if err != nil {
		return nil, err
	}
	s := &DB{
		tables: tables, dialect: Dialect(password), clock: &sqldb.Clock{Skew: config.Skew}, db: db,
		idle: config.MaxIdleConns, connectTimeout: config.ConnectTimeout, limit: config.QueryTimeout,
		history: History{timeline: `''`, system: `''`}, warn: config.Warn,
	}
	listen, err := listenConfig(config)
	if err != nil {
		_ = db.Close()
		return nil, err
	}
	s.announcer = newAnnouncer(s, listen, config.WatchEvery)
	if err := s.prepare(ctx); err != nil {
		_ = s.Close()
		return nil, s.dialect.Translate(refusedOpen(redacted(err, password)))
	}
	return s, nil
}

// View runs read with a consistent view.
func (s *DB) View(ctx context.Context, read func(*sqldb.Tx) error) error {
	return s.run(ctx, func() (bool, error) { return s.attempt(ctx, false, read) })
}

// Update runs write in one transaction, and again when a failure left nothing behind.
func (s *DB) Update(ctx context.Context, write func(*sqldb.Tx) error) error {
	return s.run(ctx, func() (bool, error) { return s.attempt(ctx, true, write) })
}

// Cluster gives the database's identity. Every create asks, so it is one message.
func (s *DB) Cluster(ctx context.Context) (cluster sqldb.Cluster, err error) {
	err = s.run(ctx, func() (again bool, err error) {
		asking, cancel := context.WithTimeout(ctx, s.connectTimeout)
		defer cancel()
		var timeline string
		err = s.db.QueryRowContext(asking, `SELECT id, incarnation, `+s.history.timeline+` FROM cluster WHERE one = 1`).
			Scan(&cluster.ID, &cluster.Incarnation, &timeline)
		switch {
		case err == nil && timeline != s.timeline.Load():
			return true, errMoved
		case isTransient(err):
			s.closeIdle()
			return true, s.dialect.ContextError(ctx, err)
		}
		return false, s.dialect.ContextError(ctx, err)
	})
	return cluster, err
}

// Ping checks that the database answers.
func (s *DB) Ping(ctx context.Context) error {
	_, err := s.Cluster(ctx)
	return err
}

// Close ends all connections. It waits for transactions that are under way.
func (s *DB) Close() error {
	s.mu.Lock()
	closed := s.closed
	s.closed = true
	s.mu.Unlock()
	if closed {
		return nil
	}
	s.announcer.stop()
	s.inside.Wait()
	s.announcer.running.Wait()
	if err := s.db.Close(); err != nil {
		return stacyvm.Wrap(stacyvm.CodeInternal, err, "the database could not be closed cleanly")
	}
	return nil
}
