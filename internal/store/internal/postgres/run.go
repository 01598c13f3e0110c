package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/dberr"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// maxTries is how often a transaction is run before its failure is told, and maxPause the longest
// wait between.
const (
	maxTries = 10
	maxPause = 250 * time.Millisecond
)

// run tries until it succeeds, its failure would come again, or it took long enough.
func (s *DB) run(ctx context.Context, attempt func() (again bool, err error)) error {
	s.mu.RLock()
	if s.closed {
		s.mu.RUnlock()
		return dberr.ErrClosed
	}
	s.inside.Add(1)
	s.mu.RUnlock()
	defer s.inside.Done()
	began, backoff := time.Now(), newBackoff()
	for try := 1; ; try++ {
		if err := dberr.Context(ctx); err != nil {
			return err
		}
		again, err := attempt()
		if errors.Is(err, errMoved) {
			if failed := s.follow(ctx); failed != nil {
				err = failed
			}
		}
		if !again || try == maxTries || time.Since(began) > s.limit || backoff.Wait(ctx) != nil {
			return err
		}
	}
}

// newBackoff gives the pauses between the tries of one transaction.
func newBackoff() retry.Backoff {
	return retry.Backoff{First: 2 * time.Millisecond, Max: maxPause, Spread: true}
}

// attempt runs a transaction once. again: nothing of it was kept, and another try may succeed.
func (s *DB) attempt(ctx context.Context, writes bool, do func(*sqldb.Tx) error) (again bool, err error) {
	conn, began, err := s.begin(ctx, writes)
	if err != nil {
		return isTransient(err), s.dialect.ContextError(ctx, err)
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
		t.End()
		if writes {
			end()
		} else { // nobody needs to wait for the end of what changed nothing
			s.inside.Go(end)
		}
	}()
	if began.timeline != s.timeline.Load() {
		return true, errMoved
	}
	if err := do(t); err != nil || t.Err() != nil {
		return s.judge(ctx, conn, t, err)
	}
	if err := dberr.Context(ctx); err != nil && writes {
		return false, err // not answered, not done
	}
	if !writes {
		return false, nil
	}
	again, err = s.commit(ctx, conn, t)
	open = err != nil && !conn.dead()
	if err == nil && t.Notify {
		s.announcer.committed()
	}
	return again, err
}

// transaction is what was begun on a connection.
func (s *DB) transaction(conn pgConn, began stamp, writes bool) *sqldb.Tx {
	t := &sqldb.Tx{
		Conn:    conn,
		Rows:    conn,
		Pipe:    conn,
		Dialect: s.dialect,
		Clock:   s.clock,
		Writes:  writes,
		Limit:   s.limit + answerWithin,
	}
	t.SetNow(began.us)
	if began.cluster.ID != "" {
		t.SetCluster(began.cluster)
	}
	return t
}

// judge tells what became of a transaction whose callback, or one of whose statements, failed.
func (s *DB) judge(ctx context.Context, conn pgConn, t *sqldb.Tx, err error) (again bool, _ error) {
	if t.Err() == nil {
		return false, err
	}
	if ended := dberr.Context(ctx); ended != nil {
		return false, ended // the statement failed because its caller left
	}
	switch {
	case errors.Is(t.Err(), errMoved), isTransient(t.Cause()):
		return true, t.Err()
	case conn.dead():
		return true, stacyvm.Wrap(stacyvm.CodeUnavailable, t.Err(), "the database's connection ended")
	case err == nil:
		err = t.Err()
	}
	return false, err
}

// commit ends a transaction that may be kept.
func (s *DB) commit(ctx context.Context, conn pgConn, t *sqldb.Tx) (again bool, err error) {
	known, err := conn.commit(ctx, t)
	switch {
	case err == nil:
		return false, nil
	case !known:
		return false, stacyvm.Wrap(
			stacyvm.CodeUnavailable,
			err,
			"the database went away during a commit: whether it took place is not known",
		)
	}
	return isTransient(err), s.dialect.Translate(err)
}

// begin takes a connection and begins a transaction on it.
func (s *DB) begin(ctx context.Context, writes bool) (conn pgConn, began stamp, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.connectTimeout)
	defer cancel()
	for again := true; ; again = false {
		if conn.Conn, err = s.db.Conn(ctx); err != nil {
			s.clock.Missed()
			return conn, began, err
		}
		if began, err = conn.begin(ctx, writes, s.limit, s.history); err == nil {
			s.clock.Answered(time.Now())
			return conn, began, nil
		}
		dead := conn.dead()
		conn.rollback(ctx)
		_ = conn.Close()
		if !dead || !again || ctx.Err() != nil {
			s.clock.Missed()
			return conn, began, err
		}
		s.closeIdle() // it had ended while it waited in the pool
	}
}
