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
	x := &session{db: s, writes: writes}
	t, err := s.begin(ctx, x)
	if err != nil {
		return isTransient(err) || errors.Is(err, errMoved), s.dialect.ContextError(ctx, err)
	}
	kept := false
	defer func() {
		t.End()
		if writes {
			x.end(ctx, kept) // do may have panicked or ended its goroutine
		} else { // nobody needs to wait for the end of what changed nothing
			s.inside.Go(func() { x.end(ctx, kept) })
		}
	}()
	err = do(t)
	if err == nil && t.Err() == nil && !x.begun {
		err = t.Flush(ctx)
	}
	if err != nil || t.Err() != nil {
		if !x.begun && t.Err() != nil {
			s.missed(x.pgConn)
		}
		return s.judge(ctx, x.pgConn, t, err)
	}
	if err := dberr.Context(ctx); err != nil && writes {
		return false, err // not answered, not done
	}
	if !writes {
		return false, nil
	}
	again, err = s.commit(ctx, x.pgConn, t)
	kept = err == nil || x.dead()
	if err == nil && t.Notify {
		s.announcer.committed()
	}
	return again, err
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

// missed notes that a connection's first message got no answer: it may have ended while it waited in
// the pool.
func (s *DB) missed(conn pgConn) {
	s.clock.Missed()
	if conn.dead() {
		s.closeIdle()
	}
}

// begin takes a connection for a transaction, and begins it if the server was not heard of lately:
// else the begin goes with the first statement.
func (s *DB) begin(ctx context.Context, x *session) (t *sqldb.Tx, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.connectTimeout)
	defer cancel()
	for again := true; ; again = false {
		if x.Conn, err = s.db.Conn(ctx); err != nil {
			s.clock.Missed()
			return nil, err
		}
		t = &sqldb.Tx{
			Conn: x, Pipe: x, Dialect: s.dialect, Clock: s.clock, Writes: x.writes, Limit: s.limit + answerWithin,
		}
		if s.clock.HeardWithin(heardWithin) {
			return t, nil
		}
		if _, err = x.Pipeline(ctx, t, nil, nil); err == nil {
			return t, nil
		}
		dead := x.dead()
		x.end(ctx, false)
		if !dead || !again || ctx.Err() != nil {
			s.clock.Missed()
			return nil, err
		}
		s.closeIdle() // it had ended while it waited in the pool
	}
}
