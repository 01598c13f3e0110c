package postgres

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// Open connects to the server that config names and brings the schema up to date. config has its
// defaults filled in.
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
	s.announcer = newAnnouncer(s, tables, listen, config.WatchEvery)
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

// Watch wakes the channel after commits of any process, and each WatchEvery.
func (s *DB) Watch(ctx context.Context) <-chan struct{} {
	woken := s.Notifier.Watch(ctx)
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.closed {
		return woken
	}
	a := s.announcer
	a.announcing.Do(func() { a.running.Go(a.run) })
	if a.listen != nil {
		a.listening.Do(func() { a.running.Go(a.listenLoop) })
	}
	a.poke()
	return woken
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
