package sqlite

import (
	"context"
	"errors"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

func openTest(t *testing.T) *DB {
	t.Helper()
	s := openPath(t, filepath.Join(t.TempDir(), "stacyvm.db"))
	s.writer.age = time.Hour // a slow machine must not end a batch
	return s
}

// openPath opens a file as a store does.
func openPath(t *testing.T, path string) *DB {
	t.Helper()
	s, err := Open(t.Context(), sqldb.Config{Path: path}.WithDefaults(), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// together runs writes in one batch, in their order, and gives their errors.
func together(t *testing.T, s *DB, writes ...func(*sqldb.Tx) error) []error {
	t.Helper()
	failures := make([]error, len(writes))
	var wait sync.WaitGroup
	for i, write := range writes {
		wait.Go(func() {
			failures[i] = s.Update(context.Background(), func(x *sqldb.Tx) error {
				if i == 0 {
					waitQueued(s.writer, len(writes)-1)
				}
				return write(x)
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
func note(t *sqldb.Tx) error {
	_, err := t.Exec(context.Background(), `INSERT INTO operation_audit (actor, action, sandbox_id, resource, provider, status, detail, tenant_id, created_us)
		VALUES ('test', '', '', '', '', '', '', '', 0)`)
	return err
}

func noted(t *testing.T, s *DB) int {
	t.Helper()
	var n int64
	err := s.View(t.Context(), func(x *sqldb.Tx) (err error) {
		n, _, err = sqldb.One(t.Context(), x, sqldb.ScanInt, `SELECT count(*) FROM operation_audit WHERE actor = 'test'`)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return int(n)
}

func TestFailedCommitFailsEverybodyInIt(t *testing.T) {
	s := openTest(t)
	run := func(text string) func(*sqldb.Tx) error {
		return func(t *sqldb.Tx) error { _, err := t.Exec(context.Background(), text); return err }
	}
	for _, text := range []string{`CREATE TABLE p (id INT PRIMARY KEY)`, `CREATE TABLE c (p INT REFERENCES p (id) DEFERRABLE INITIALLY DEFERRED)`} {
		if err := s.Update(t.Context(), func(x *sqldb.Tx) error { return run(text)(x) }); err != nil {
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

// TestLostTransactionFailsEverybodyInIt imitates what SQLite does on some errors: it rolls back
// the whole transaction in the middle of one caller's work.
func TestLostTransactionFailsEverybodyInIt(t *testing.T) {
	s := openTest(t)
	lose := func(t *sqldb.Tx) error {
		if _, err := t.Conn.ExecContext(context.Background(), "ROLLBACK"); err != nil {
			return err
		}
		return t.Fail(stacyvm.Errorf(stacyvm.CodeStorageFull, "no space is left"))
	}
	ignore := func(t *sqldb.Tx) error {
		_ = lose(t)
		return note(t) // must not stand alone, outside of any transaction
	}
	for name, loser := range map[string]func(*sqldb.Tx) error{"told": lose, "ignored": ignore} {
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
	failures := together(t, s, note, func(t *sqldb.Tx) error { return errors.Join(note(t), mine) }, note)
	if failures[0] != nil || !errors.Is(failures[1], mine) || failures[2] != nil || noted(t, s) != 2 {
		t.Errorf("got %v and %d lines", failures, noted(t, s))
	}
}

func TestBatchSharesOneCommit(t *testing.T) {
	s := openTest(t)
	var batches [8]*batch
	writes := make([]func(*sqldb.Tx) error, len(batches))
	for i := range writes {
		writes[i] = func(t *sqldb.Tx) error {
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
		_ = s.Update(context.Background(), func(x *sqldb.Tx) error { <-release; return note(x) })
	})
	waitTaken(s.writer)
	left := make(chan error, 1)
	wait.Go(func() { left <- s.Update(ctx, func(*sqldb.Tx) error { t.Error("ran"); return nil }) })
	waitQueued(s.writer, 1)
	wait.Go(func() {
		if err := s.Update(context.Background(), note); err != nil {
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
		if err := s.Update(context.Background(), func(x *sqldb.Tx) error { <-release; return note(x) }); err != nil {
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
	if err := s.Update(t.Context(), func(*sqldb.Tx) error { return nil }); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
		t.Errorf("a write that came after the close got %v", err)
	}
	close(release)
	wait.Wait()
}

// TestGivenUpStatementHarmsNobodyElse ends one caller's context in the middle of a long write.
// Were it interrupted, SQLite would roll back what the other has written in the same transaction.
func TestGivenUpStatementHarmsNobodyElse(t *testing.T) {
	s := openTest(t)
	ctx, leave := context.WithCancel(t.Context())
	long := func(t *sqldb.Tx) error {
		defer time.AfterFunc(5*time.Millisecond, leave).Stop()
		_, err := t.Exec(ctx, `
			INSERT INTO operation_audit (actor, action, sandbox_id, resource, provider, status, detail, tenant_id, created_us)
			WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
			SELECT 'test', '', '', '', '', '', '', '', i FROM n`)
		if err != nil {
			return err
		}
		return note(t)
	}
	failures := together(t, s, note, func(t *sqldb.Tx) error {
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

func TestBusyFileIsUnavailable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "stacyvm.db")
	first, second := openPath(t, path), openPath(t, path)
	if err := second.writer.run("PRAGMA busy_timeout = 1"); err != nil {
		t.Fatal(err)
	}
	err := first.Update(t.Context(), func(*sqldb.Tx) error {
		if err := second.Update(t.Context(), func(*sqldb.Tx) error { return nil }); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
			t.Errorf("writing to a busy file: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	if err := second.Update(t.Context(), func(*sqldb.Tx) error { return nil }); err != nil {
		t.Errorf("the file is free again: %v", err)
	}
}
