package store

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

func openTest(t *testing.T) *sqliteStore {
	t.Helper()
	s, err := NewSQLiteStore(t.Context(), filepath.Join(t.TempDir(), "stacyvm.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	s.(*sqliteStore).writer.age = time.Hour // a slow machine must not end a batch
	return s.(*sqliteStore)
}

// together runs writes in one batch, in their order, and gives their errors.
func together(t *testing.T, s *sqliteStore, writes ...func(*tx) error) []error {
	t.Helper()
	failures := make([]error, len(writes))
	var wait sync.WaitGroup
	for i, write := range writes {
		wait.Go(func() {
			failures[i] = s.Update(context.Background(), func(x Tx) error {
				if i == 0 {
					waitQueued(s.writer, len(writes)-1)
				}
				return write(x.(*tx))
			})
		})
		if i == 0 {
			waitTaken(s.writer)
		} else if i < len(writes)-1 {
			waitQueued(s.writer, i) // keeps the order; the first goes on when the last is there
		}
	}
	wait.Wait()
	return failures
}

func waitTaken(w *writer) {
	until(func() bool { w.mu.Lock(); defer w.mu.Unlock(); return w.taken })
}

func waitQueued(w *writer, n int) {
	until(func() bool { w.mu.Lock(); defer w.mu.Unlock(); return len(w.queue) >= n })
}

func until(condition func() bool) {
	for !condition() {
		time.Sleep(50 * time.Microsecond)
	}
}

// note writes something that can be counted.
func note(t *tx) error {
	return t.Audit().AppendOperations(context.Background(), []stacyvm.Operation{{Actor: "test"}})
}

func noted(t *testing.T, s *sqliteStore) int {
	t.Helper()
	var lines []stacyvm.Operation
	err := s.View(t.Context(), func(x Tx) (err error) {
		lines, err = x.Audit().Operations(t.Context(), OperationFilter{Actor: "test"})
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return len(lines)
}

func TestFailedCommitFailsEverybodyInIt(t *testing.T) {
	s := openTest(t)
	run := func(text string) func(*tx) error {
		return func(t *tx) error { _, err := t.exec(context.Background(), text); return err }
	}
	for _, text := range []string{`CREATE TABLE p (id INT PRIMARY KEY)`, `CREATE TABLE c (p INT REFERENCES p (id) DEFERRABLE INITIALLY DEFERRED)`} {
		if err := s.Update(t.Context(), func(x Tx) error { return run(text)(x.(*tx)) }); err != nil {
			t.Fatal(err)
		}
	}
	for i, err := range together(t, s, note, run(`INSERT INTO c VALUES (1)`), note) { // refused at the commit only
		if stacyvm.CodeOf(err) != stacyvm.CodeInternal {
			t.Errorf("member %d got %v", i, err)
		}
	}
	if n := noted(t, s); n != 0 {
		t.Errorf("%d lines of a failed commit are there", n)
	}
	if err := errors.Join(together(t, s, note, note)...); err != nil || noted(t, s) != 2 {
		t.Errorf("after a failed commit: %v, %d lines", err, noted(t, s))
	}
}

// TestLostTransactionFailsEverybodyInIt imitates what SQLite does on some errors: it rolls back the whole transaction in
// the middle of one caller's work.
func TestLostTransactionFailsEverybodyInIt(t *testing.T) {
	s := openTest(t)
	lose := func(t *tx) error {
		if _, err := t.on.ExecContext(context.Background(), "ROLLBACK"); err != nil {
			return err
		}
		return t.fail(stacyvm.Errorf(stacyvm.CodeStorageFull, "no space is left"))
	}
	ignore := func(t *tx) error {
		_ = lose(t)
		return note(t) // must not stand alone, outside of any transaction
	}
	for name, loser := range map[string]func(*tx) error{"told": lose, "ignored": ignore} {
		failures := together(t, s, note, loser, note)
		for i, err := range failures[:2] {
			if stacyvm.CodeOf(err) != stacyvm.CodeStorageFull {
				t.Errorf("%s: member %d got %v", name, i, err)
			}
		}
		if failures[2] != nil {
			t.Errorf("%s: the next batch got %v", name, failures[2])
		}
	}
	if n := noted(t, s); n != 2 {
		t.Errorf("%d lines are there, want those of the two later batches", n)
	}
}

func TestOneErrorTakesBackOneCaller(t *testing.T) {
	s := openTest(t)
	mine := errors.New("mine")
	failures := together(t, s, note, func(t *tx) error { return errors.Join(note(t), mine) }, note)
	if failures[0] != nil || !errors.Is(failures[1], mine) || failures[2] != nil || noted(t, s) != 2 {
		t.Errorf("got %v and %d lines", failures, noted(t, s))
	}
}

func TestBatchSharesOneCommit(t *testing.T) {
	s := openTest(t)
	var batches [8]*batch
	writes := make([]func(*tx) error, len(batches))
	for i := range writes {
		writes[i] = func(t *tx) error {
			batches[i] = s.writer.batch
			select {
			case <-batches[0].done:
				return errors.New("somebody was answered before the end of the batch")
			default:
				return note(t)
			}
		}
	}
	if err := errors.Join(together(t, s, writes...)...); err != nil {
		t.Fatal(err)
	}
	for _, b := range batches {
		if b != batches[0] {
			t.Error("callers who waited together were committed apart")
		}
	}
}

func TestWhoLeavesTheQueueHoldsNobodyUp(t *testing.T) {
	s := openTest(t)
	ctx, leave := context.WithCancel(t.Context())
	var wait sync.WaitGroup
	release := make(chan struct{})
	wait.Go(func() {
		_ = s.Update(context.Background(), func(x Tx) error { <-release; return note(x.(*tx)) })
	})
	waitTaken(s.writer)
	left := make(chan error, 1)
	wait.Go(func() { left <- s.Update(ctx, func(Tx) error { t.Error("ran"); return nil }) })
	waitQueued(s.writer, 1)
	wait.Go(func() {
		if err := s.Update(context.Background(), func(x Tx) error { return note(x.(*tx)) }); err != nil {
			t.Error(err)
		}
	})
	waitQueued(s.writer, 2)
	leave()
	if err := <-left; stacyvm.CodeOf(err) != stacyvm.CodeUnavailable { // while the first still holds the turn
		t.Errorf("who left got %v", err)
	}
	close(release)
	wait.Wait()
	if n := noted(t, s); n != 2 {
		t.Errorf("%d lines", n)
	}
}

func TestCloseWaitsForWrites(t *testing.T) {
	s := openTest(t)
	release := make(chan struct{})
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := s.Update(context.Background(), func(x Tx) error { <-release; return note(x.(*tx)) }); err != nil {
			t.Error(err)
		}
	})
	waitTaken(s.writer)
	wait.Go(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	waitQueued(s.writer, 1) // the close
	if err := s.Update(t.Context(), func(Tx) error { return nil }); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
		t.Errorf("a write that came after the close got %v", err)
	}
	close(release)
	wait.Wait()
}

func TestClockJumpsPauseTakeovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clock{}
		wall := time.Duration(0) // what the wall clock is off
		ask := func() bool { return c.mayTakeOver(time.Now().Add(wall).UnixMicro(), time.Now()) }
		pass := func(d time.Duration, want bool) {
			t.Helper()
			time.Sleep(d)
			if ask() != want {
				t.Errorf("may take over: %v", !want)
			}
		}
		pass(0, true)
		pass(24*time.Hour, true)
		wall += maxDrift - time.Second // slewed
		pass(time.Minute, true)
		for _, jump := range []time.Duration{time.Hour, -time.Hour, maxDrift + time.Second} {
			wall += jump
			pass(time.Minute, false)
			pass(driftPause-time.Second, false)
			pass(2*time.Second, true)
		}
	})
}

func TestNoTakeoverAfterAClockJump(t *testing.T) {
	s := openTest(t)
	var jump time.Duration
	s.dialect.clock = func(context.Context, querier) (int64, error) { return time.Now().Add(jump).UnixMicro(), nil }
	acquire := func(holder stacyvm.WorkerID) error {
		return s.Update(t.Context(), func(x Tx) error {
			_, err := x.Leases().Acquire(t.Context(), LeaseRequest{Resource: "d", Type: "duty", Holder: holder, Session: "s", TTL: time.Minute})
			return err
		})
	}
	if err := acquire("w1"); err != nil {
		t.Fatal(err)
	}
	jump = time.Hour // every lease seems to have run out
	if err := acquire("w2"); stacyvm.CodeOf(err) != stacyvm.CodeConflict {
		t.Errorf("another took over: %v", err)
	}
	if err := acquire("w1"); err != nil {
		t.Errorf("the owner could not take its lease again: %v", err)
	}
}

// TestGivenUpStatementHarmsNobodyElse ends one caller's context in the middle of a long write. Were it interrupted, SQLite
// would roll back what the other has written in the same transaction.
func TestGivenUpStatementHarmsNobodyElse(t *testing.T) {
	s := openTest(t)
	ctx, leave := context.WithCancel(t.Context())
	long := func(t *tx) error {
		defer time.AfterFunc(5*time.Millisecond, leave).Stop()
		_, err := t.exec(ctx, `
			INSERT INTO operation_audit (actor, action, sandbox_id, resource, provider, status, detail, tenant_id, created_us)
			WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
			SELECT 'test', '', '', '', '', '', '', '', i FROM n`)
		if err != nil {
			return err
		}
		return note(t)
	}
	failures := together(t, s, note, func(t *tx) error {
		err := long(t)
		<-ctx.Done()
		return errors.Join(err, ctx.Err())
	}, note)
	if failures[0] != nil || failures[1] == nil || failures[2] != nil || noted(t, s) != 2 {
		t.Errorf("got %v and %d lines", failures, noted(t, s))
	}
}

// TestTurnIsNotLostWithItsWaiter hands the turn to a waiter whose context ends at that moment.
func TestTurnIsNotLostWithItsWaiter(t *testing.T) {
	w := openTest(t).writer
	for range 200 {
		if err := w.take(t.Context(), false); err != nil {
			t.Fatal(err)
		}
		ctx, leave := context.WithCancel(t.Context())
		taken := make(chan error, 1)
		go func() { taken <- w.take(ctx, false) }()
		waitQueued(w, 1)
		w.mu.Lock()
		leave()
		time.Sleep(100 * time.Microsecond) // the waiter has seen it, or sees both
		w.next()
		w.mu.Unlock()
		if <-taken == nil {
			w.pass()
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := w.take(ctx, false); err != nil {
		t.Fatalf("the turn is gone: %v", err)
	}
	w.pass()
}
