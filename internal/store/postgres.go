package store

import (
	"context"
	"database/sql"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// postgresStore is a database on a server, for any number of processes.
type postgresStore struct {
	bell
	dialect  *dialect
	clock    *clock
	db       *sql.DB
	idle     int           // connections that the pool keeps
	patience time.Duration // for a connection
	limit    time.Duration // of a statement
	timeline atomic.Value  // string: the server's, as it was last seen
	history  pgHistory
	warn     func(string)

	announcer *announcer

	mu     sync.RWMutex
	closed bool
	inside sync.WaitGroup // transactions
}

func openPostgres(ctx context.Context, config Config) (Store, error) {
	db, password, err := connectPostgres(config)
	if err != nil {
		return nil, err
	}
	s := &postgresStore{
		dialect: postgresDialect(password), clock: &clock{skew: config.Skew}, db: db,
		idle: config.maxIdleConns(), patience: config.connectTimeout(), limit: config.queryTimeout(),
		history: pgHistory{timeline: `''`, system: `''`}, warn: config.Warn,
	}
	listen, err := listenConfig(config)
	if err != nil {
		_ = db.Close()
		return nil, err
	}
	s.announcer = newAnnouncer(s, listen)
	if err := s.prepare(ctx); err != nil {
		_ = s.Close()
		return nil, s.dialect.translate(refusedOpen(redacted(err, password)))
	}
	return s, nil
}

// View implements Store.
func (s *postgresStore) View(ctx context.Context, read func(Tx) error) error {
	return s.run(ctx, func() (bool, error) { return s.attempt(ctx, false, read) })
}

// Update implements Store.
func (s *postgresStore) Update(ctx context.Context, write func(Tx) error) error {
	return s.run(ctx, func() (bool, error) { return s.attempt(ctx, true, write) })
}

// Cluster implements Store. Every create asks, so it is one message.
func (s *postgresStore) Cluster(ctx context.Context) (cluster Cluster, err error) {
	err = s.run(ctx, func() (again bool, err error) {
		asking, cancel := context.WithTimeout(ctx, s.patience)
		defer cancel()
		var timeline string
		err = s.db.QueryRowContext(asking, `SELECT id, incarnation, `+s.history.timeline+` FROM cluster WHERE one = 1`).
			Scan(&cluster.ID, &cluster.Incarnation, &timeline)
		switch {
		case err == nil && timeline != s.timeline.Load():
			return true, errMoved
		case passing(err):
			s.letGo()
			return true, blame(ctx, s.dialect, err)
		}
		return false, blame(ctx, s.dialect, err)
	})
	return cluster, err
}

// Ping implements Store.
func (s *postgresStore) Ping(ctx context.Context) error {
	_, err := s.Cluster(ctx)
	return err
}

// Close implements Store. It waits for transactions that are under way.
func (s *postgresStore) Close() error {
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
