package store

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// postgresTries is how often a transaction is run before its failure is told, and postgresPause the longest wait between.
const (
	postgresTries = 10
	postgresPause = 250 * time.Millisecond
)

// run tries until it succeeds, its failure would come again, or it took long enough.
func (s *postgresStore) run(ctx context.Context, attempt func() (again bool, err error)) error {
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
		if err := interrupted(ctx); err != nil {
			return err
		}
		again, err := attempt()
		if errors.Is(err, errMoved) {
			if failed := s.follow(ctx); failed != nil {
				err = failed
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
	conn, began, err := s.begin(ctx, writes)
	if err != nil {
		return passing(err), blame(ctx, s.dialect, err)
	}
	t := s.transaction(conn, began, writes)
	open := true
	end := func() {
		if open { // do failed, panicked or ended its goroutine
			conn.rollback(ctx)
		}
		_ = conn.Close() // back to the pool
	}
	defer func() {
		t.ended.Store(true)
		if writes {
			end()
		} else { // nobody needs to wait for the end of what changed nothing
			s.inside.Go(end)
		}
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
	if !writes {
		return false, nil
	}
	again, err = s.settle(ctx, conn, t)
	open = err != nil && !conn.dead()
	if err == nil && t.told {
		s.announcer.committed()
	}
	return again, err
}

// transaction is what was begun on a connection.
func (s *postgresStore) transaction(conn pgConn, began stamp, writes bool) *tx {
	t := &tx{on: conn, pipe: conn, dialect: s.dialect, clock: s.clock, writes: writes, limit: s.limit + answerWithin}
	t.stamp(began.us)
	if began.cluster.ID != "" {
		t.identity = &began.cluster
	}
	return t
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
func (s *postgresStore) settle(ctx context.Context, conn pgConn, t *tx) (again bool, err error) {
	known, err := conn.commit(ctx, t)
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

// begin takes a connection and begins a transaction on it.
func (s *postgresStore) begin(ctx context.Context, writes bool) (conn pgConn, began stamp, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.patience)
	defer cancel()
	for again := true; ; again = false {
		if conn.Conn, err = s.db.Conn(ctx); err != nil {
			s.clock.missed()
			return conn, began, err
		}
		if began, err = conn.begin(ctx, writes, s.limit, s.history); err == nil {
			s.clock.answered(time.Now())
			return conn, began, nil
		}
		dead := conn.dead()
		conn.rollback(ctx)
		_ = conn.Close()
		if !dead || !again || ctx.Err() != nil {
			s.clock.missed()
			return conn, began, err
		}
		s.letGo() // it had ended while it waited in the pool
	}
}

// letGo closes the connections that wait in the pool. After a restart of the server all of them have ended.
func (s *postgresStore) letGo() {
	s.db.SetMaxIdleConns(-1)
	s.db.SetMaxIdleConns(s.idle)
}
