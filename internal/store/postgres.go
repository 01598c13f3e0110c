package store

import (
	"context"
	"database/sql"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// postgresTries is how often a transaction is run before its failure is told, and postgresPause the longest wait between.
const (
	postgresTries = 10
	postgresPause = 250 * time.Millisecond
)

// postgresStore is a database on a server, for any number of processes.
type postgresStore struct {
	bell
	dialect  *dialect
	clock    *clock
	db       *sql.DB
	conns    int           // of the pool
	patience time.Duration // for a connection
	limit    time.Duration // of a statement
	timeline atomic.Value  // string: the server's, as it was last seen

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
		conns: config.maxOpenConns(), patience: config.connectTimeout(), limit: config.queryTimeout(),
	}
	if err := s.prepare(ctx); err != nil {
		_ = s.Close()
		return nil, s.dialect.translate(refusedOpen(redacted(err, password)))
	}
	return s, nil
}

// View implements Store.
func (s *postgresStore) View(ctx context.Context, read func(Tx) error) error {
	return s.run(ctx, false, read)
}

// Update implements Store.
func (s *postgresStore) Update(ctx context.Context, write func(Tx) error) error {
	return s.run(ctx, true, write)
}

// run tries a transaction until it succeeds, its failure would come again, or it took long enough.
func (s *postgresStore) run(ctx context.Context, writes bool, do func(Tx) error) error {
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		return errClosed
	}
	s.inside.Add(1)
	s.mu.RUnlock()
	defer s.inside.Done()
	began := time.Now()
	for try := 1; ; try++ {
		again, err := s.attempt(ctx, writes, do)
		if errors.Is(err, errMoved) {
			if err = s.follow(ctx); err == nil {
				continue
			}
		}
		if !again || try == postgresTries || time.Since(began) > s.limit || !rest(ctx, try) {
			return err
		}
	}
}

// rest waits before the next try, longer each time; false when the context ended.
func rest(ctx context.Context, try int) bool {
	longest := min(postgresPause, time.Millisecond<<try)
	select {
	case <-ctx.Done():
		return false
	case <-time.After(rand.N(longest)):
		return true
	}
}

// attempt runs a transaction once. again: nothing of it was kept, and another try may succeed.
func (s *postgresStore) attempt(ctx context.Context, writes bool, do func(Tx) error) (again bool, err error) {
	if err := interrupted(ctx); err != nil {
		return false, err
	}
	conn, began, err := s.begin(ctx, writes)
	if err != nil {
		return passing(err), blame(ctx, s.dialect, err)
	}
	t := &tx{on: conn, dialect: s.dialect, clock: s.clock, writes: writes, limit: s.limit + answerWithin}
	t.stamp(began.us)
	open := true
	defer func() {
		t.ended.Store(true)
		if open { // do failed, panicked or ended its goroutine
			conn.rollback(ctx)
		}
		_ = conn.Close() // back to the pool
	}()
	if began.timeline != s.timeline.Load() {
		return true, errMoved
	}
	if err := do(t); err != nil || t.broken != nil {
		return s.judge(ctx, conn, t, err)
	}
	if err := interrupted(ctx); err != nil && writes {
		return false, err // not answered, not done
	}
	open = false
	if !writes {
		conn.rollback(ctx)
		return false, nil
	}
	again, err = s.settle(ctx, conn)
	if err == nil && t.told {
		s.ring()
	}
	return again, err
}

// judge tells what became of a transaction whose callback, or one of whose statements, failed.
func (s *postgresStore) judge(ctx context.Context, conn pgConn, t *tx, err error) (again bool, _ error) {
	if t.broken == nil {
		return false, err
	}
	if cut := interrupted(ctx); cut != nil {
		return false, cut // the statement failed because its caller left
	}
	switch {
	case passing(t.cause):
		return true, t.broken
	case conn.dead():
		return true, stacyvm.Wrap(stacyvm.CodeUnavailable, t.broken, "the database's connection ended")
	case err == nil:
		err = t.broken
	}
	return false, err
}

// settle commits.
func (s *postgresStore) settle(ctx context.Context, conn pgConn) (again bool, err error) {
	known, err := conn.commit(ctx)
	switch {
	case err == nil:
		return false, nil
	case !known:
		return false, stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the database went away during a commit: whether it took place is not known")
	}
	return passing(err), s.dialect.translate(err)
}

// passing reports whether a failure, that left nothing behind, may not come again.
func passing(err error) bool {
	switch state := pgState(err); state {
	case "":
		return lostConnection(err)
	case pgSerialization, pgDeadlock, pgConnections:
		return true
	default:
		return strings.HasPrefix(state, "57P") // it stops or starts
	}
}

// begin takes a connection and begins a transaction on it. A connection of the pool that ended meanwhile is let go: after
// a restart of the server all of them have.
func (s *postgresStore) begin(ctx context.Context, writes bool) (pgConn, stamp, error) {
	waiting, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	text := beginText(writes, s.limit)
	for tries := 0; ; tries++ {
		raw, err := s.db.Conn(waiting)
		if err != nil {
			s.clock.missed()
			return pgConn{}, stamp{}, err
		}
		conn := pgConn{raw}
		began, err := conn.begin(ctx, text)
		if err == nil {
			s.clock.answered(time.Now())
			return conn, began, nil
		}
		dead := conn.dead()
		conn.rollback(ctx)
		_ = conn.Close()
		if !dead || tries > s.conns || interrupted(ctx) != nil {
			s.clock.missed()
			return pgConn{}, stamp{}, err
		}
	}
}

// Cluster implements Store.
func (s *postgresStore) Cluster(ctx context.Context) (cluster Cluster, err error) {
	err = s.View(ctx, func(x Tx) error {
		cluster, err = identity(ctx, x.(*tx))
		return err
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
	s.inside.Wait()
	if err := s.db.Close(); err != nil {
		return stacyvm.Wrap(stacyvm.CodeInternal, err, "the database could not be closed cleanly")
	}
	return nil
}
