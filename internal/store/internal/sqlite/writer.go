package sqlite

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"slices"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/store/internal/dberr"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

const (
	// batchSize and batchAge bound how many callers share one commit, and how long the first of
	// them waits for it.
	batchSize = 128
	batchAge  = 20 * time.Millisecond
)

// writer lets concurrent callers share one transaction and its sync. One caller at a time holds
// the turn: it runs its callback on its own goroutine, inside a savepoint, and hands the turn to
// the next one waiting. Whoever finds nobody waiting commits for all, and only then is anybody
// answered. Callers that come during the commit make the next batch.
type writer struct {
	db      *sql.DB
	dialect *sqldb.Dialect
	clock   *sqldb.Clock
	age     time.Duration // batchAge
	notify  func()        // called after a commit with events in it; may be nil
	commits Commits       // may be nil

	mu     sync.Mutex
	taken  bool            // somebody holds the turn
	queue  []chan struct{} // who waits for it; closed to hand it over
	closed bool

	// Used by the holder of the turn alone.
	conn  *preparedConn
	batch *batch
}

// Commits is called before a commit that touches sandboxes, and what it gives when the commit has
// ended, however, before anybody is answered.
type Commits func(sqldb.Touched) (ended func())

// batch is one database transaction.
type batch struct {
	touched sqldb.Touched
	began   time.Time
	size    int
	notify  bool          // somebody in it appended events
	failed  error         // the transaction is gone; everybody in it gets this
	done    chan struct{} // closed after the commit
	err     error         // the commit's, valid after done
}

// update runs write in a savepoint of a shared transaction and returns after its commit.
func (w *writer) update(ctx context.Context, write func(*sqldb.Tx) error) error {
	if err := w.take(ctx, false); err != nil {
		return err
	}
	b, err := w.join(ctx)
	if err != nil {
		w.pass()
		return err
	}
	ended := false
	defer func() {
		if !ended { // write panicked or ended its goroutine; the others do not notice
			w.undo(b, nil)
			w.pass()
		}
	}()
	err = w.member(ctx, b, write)
	ended = true
	w.pass()
	if err != nil {
		return err
	}
	<-b.done
	return b.err
}

// take waits for the turn. Only a closing caller gets it for good.
func (w *writer) take(ctx context.Context, closing bool) error {
	if err := dberr.Context(ctx); err != nil {
		return err
	}
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return dberr.ErrClosed
	}
	w.closed = closing
	if !w.taken {
		w.taken = true
		w.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	w.queue = append(w.queue, turn)
	w.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	w.mu.Lock()
	at := slices.Index(w.queue, turn)
	if at >= 0 {
		w.queue = slices.Delete(w.queue, at, at+1)
	}
	w.mu.Unlock()
	if at < 0 { // it was handed over meanwhile; somebody must go on
		w.pass()
	}
	return dberr.Context(ctx)
}

// join gives the open batch, or begins one.
func (w *writer) join(ctx context.Context) (*batch, error) {
	if w.batch != nil {
		return w.batch, nil
	}
	if w.conn == nil {
		conn, err := w.db.Conn(ctx)
		if err != nil {
			return nil, w.dialect.ContextError(ctx, err)
		}
		w.conn = newPreparedConn(conn)
	}
	// Nobody else is in it yet: this is the one statement that its caller's context may interrupt.
	if _, err := w.conn.ExecContext(ctx, "BEGIN IMMEDIATE"); err != nil {
		w.discard()
		return nil, w.dialect.ContextError(ctx, err)
	}
	w.batch = &batch{began: time.Now(), done: make(chan struct{})}
	return w.batch, nil
}

// member runs one caller's callback; its error takes back what this caller did and nothing else.
func (w *writer) member(ctx context.Context, b *batch, write func(*sqldb.Tx) error) error {
	b.size++
	if err := w.run("SAVEPOINT member"); err != nil {
		b.failed = w.dialect.Translate(err)
		return b.failed
	}
	t := &sqldb.Tx{Conn: w.conn, Dialect: w.dialect, Clock: w.clock, Shared: true, Writes: true}
	defer t.End()
	err := write(t)
	if err == nil {
		err = t.Err()
	}
	if err == nil {
		err = dberr.Context(ctx) // not answered, not done
	}
	if err != nil {
		w.undo(b, t.Err())
		return err
	}
	if err := w.run("RELEASE member"); err != nil {
		b.failed = w.dialect.Translate(err)
		return b.failed
	}
	b.notify = b.notify || t.Notify
	b.touched.Add(t.Touched)
	return nil
}

// undo takes back one member's changes. It fails when SQLite rolled back the whole transaction (a
// full disk, an input or output error); then the batch is over, for the reason that cause gives.
func (w *writer) undo(b *batch, cause error) {
	err := w.run("ROLLBACK TO member")
	if err == nil {
		err = w.run("RELEASE member")
	}
	if err == nil {
		return
	}
	if b.failed = cause; cause == nil {
		b.failed = w.dialect.Translate(err)
	}
}

// pass hands the turn on: within the batch while somebody waits and there is room, else after
// ending the batch.
func (w *writer) pass() {
	w.mu.Lock()
	b := w.batch
	if b != nil && b.failed == nil && b.size < batchSize && len(w.queue) > 0 && time.Since(b.began) < w.age {
		w.next()
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()
	if b != nil {
		b.err = w.finish(b)
		w.batch = nil
		close(b.done)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.queue) == 0 {
		w.taken = false
		return
	}
	w.next()
}

// next gives the turn to the first in the queue; w.mu is held.
func (w *writer) next() {
	turn := w.queue[0]
	w.queue = slices.Delete(w.queue, 0, 1)
	close(turn)
}

// finish commits. A connection that could not is thrown away with whatever it still holds.
func (w *writer) finish(b *batch) error {
	if b.failed != nil {
		w.discard()
		return b.failed
	}
	if w.commits != nil && b.touched.Any() {
		defer w.commits(b.touched)()
	}
	if err := w.run("COMMIT"); err != nil {
		err = w.dialect.Translate(err)
		w.discard()
		return err
	}
	if b.notify && w.notify != nil {
		w.notify()
	}
	return nil
}

// run runs a statement of the shared transaction, which no caller's context may interrupt.
func (w *writer) run(text string) error {
	_, err := w.conn.ExecContext(context.Background(), text)
	return err
}

// discard closes the connection; SQLite rolls back what is open on it.
func (w *writer) discard() {
	_ = w.run("ROLLBACK") // none may be open
	w.conn.forget()
	_ = w.conn.Raw(func(any) error { return driver.ErrBadConn })
	_ = w.conn.Close()
	w.conn = nil
}

// close waits for the last batch and lets nobody in after it.
func (w *writer) close() {
	if w.take(context.Background(), true) != nil {
		return
	}
	if w.batch != nil {
		w.batch.err = w.finish(w.batch)
		close(w.batch.done)
		w.batch = nil
	}
	if w.conn != nil {
		w.conn.forget()
		_ = w.conn.Close()
		w.conn = nil
	}
}
