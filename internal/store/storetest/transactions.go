package storetest

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

var errMine = errors.New("the caller's own error")

// put inserts a row with nothing in it.
func put(ctx context.Context, tx store.Tx, id stacyvm.SandboxID) error {
	_, err := tx.Sandboxes().Insert(ctx, stacyvm.Sandbox{ID: id, State: stacyvm.StateRunning})
	return err
}

// exists reports whether a row is there for a new reader.
func (r *rig) exists(id stacyvm.SandboxID) bool {
	r.Helper()
	err := r.View(r.Context(), func(tx store.Tx) error {
		_, err := tx.Sandboxes().Get(r.Context(), id)
		return err
	})
	if code := stacyvm.CodeOf(err); code != "" && code != stacyvm.CodeNotFound {
		r.Fatal(err)
	}
	return err == nil
}

func txAllOrNothing(r *rig) {
	a, b := stacyvm.NewSandboxID(), stacyvm.NewSandboxID()
	err := r.try(func(ctx context.Context, tx store.Tx) error {
		if err := errors.Join(put(ctx, tx, a), put(ctx, tx, b)); err != nil {
			return err
		}
		if _, err := tx.Sandboxes().Get(ctx, a); err != nil {
			r.Errorf("a transaction does not see its own row: %v", err)
		}
		if r.exists(a) {
			r.Error("others see a row before its commit")
		}
		return errMine
	})
	if !errors.Is(err, errMine) || r.exists(a) || r.exists(b) {
		r.Errorf("after an error: %v, rows %v and %v", err, r.exists(a), r.exists(b))
	}
	// A refusal is an answer, not an error of the transaction: the caller may go on.
	r.update(func(ctx context.Context, tx store.Tx) error {
		if err := put(ctx, tx, a); err != nil {
			return err
		}
		r.want(stacyvm.CodeConflict, put(ctx, tx, a))
		return put(ctx, tx, b)
	})
	if !r.exists(a) || !r.exists(b) {
		r.Error("a commit is not seen")
	}
}

func txSnapshot(r *rig) {
	r.insert(nil)
	r.view(func(ctx context.Context, tx store.Tx) error {
		before, err := tx.Sandboxes().Count(ctx, store.SandboxFilter{})
		if err != nil {
			return err
		}
		r.insert(nil)
		after, err := tx.Sandboxes().Count(ctx, store.SandboxFilter{})
		if before != 1 || after != 1 {
			r.Errorf("a view counted %d and then %d", before, after)
		}
		return err
	})
	err := r.View(r.Context(), func(tx store.Tx) error { return put(r.Context(), tx, stacyvm.NewSandboxID()) })
	if err == nil {
		r.Error("a view wrote")
	}
	if n := r.count(); n != 2 {
		r.Errorf("%d rows", n)
	}
}

func (r *rig) count() (n int) {
	r.Helper()
	r.view(func(ctx context.Context, tx store.Tx) (err error) {
		n, err = tx.Sandboxes().Count(ctx, store.SandboxFilter{})
		return err
	})
	return n
}

func txPanics(r *rig) {
	id := stacyvm.NewSandboxID()
	func() {
		defer func() {
			if got := recover(); got != "mine" {
				r.Errorf("recovered %v", got)
			}
		}()
		_ = r.try(func(ctx context.Context, tx store.Tx) error {
			r.must(put(ctx, tx, id))
			panic("mine")
		})
		r.Error("the panic was swallowed")
	}()
	var wait sync.WaitGroup
	wait.Go(func() {
		_ = r.try(func(ctx context.Context, tx store.Tx) error {
			r.want("", put(ctx, tx, id))
			runtime.Goexit()
			return nil
		})
	})
	wait.Wait()
	if r.exists(id) {
		r.Error("a transaction that did not return was committed")
	}
	r.update(func(ctx context.Context, tx store.Tx) error { return put(ctx, tx, id) })
}

// txShared mixes callers who succeed, fail, panic and leave: each gets what it did, and nobody
// another's end.
func txShared(r *rig) {
	const callers = 96
	ids := make([]stacyvm.SandboxID, callers)
	var wait sync.WaitGroup
	for i := range ids {
		ids[i] = stacyvm.NewSandboxID()
		wait.Go(func() {
			defer func() { _ = recover() }()
			err := r.try(func(ctx context.Context, tx store.Tx) error {
				if err := put(ctx, tx, ids[i]); err != nil {
					return err
				}
				switch i % 4 {
				case 1:
					return errMine
				case 2:
					panic("mine")
				case 3:
					return put(ctx, tx, ids[i]) // a conflict that is not handled
				}
				return nil
			})
			switch {
			case i%4 == 0 && err != nil, i%4 == 1 && !errors.Is(err, errMine), i%4 == 3 && stacyvm.CodeOf(err) != stacyvm.CodeConflict:
				r.Errorf("caller %d got %v", i, err)
			}
			if i%4 == 0 && !r.exists(ids[i]) {
				r.Errorf("caller %d was answered before its row could be seen", i)
			}
		})
	}
	wait.Wait()
	for i, id := range ids {
		if r.exists(id) != (i%4 == 0) {
			r.Errorf("caller %d: row there: %v", i, r.exists(id))
		}
	}
}

// txGivenUp ends the contexts of half of the callers at any moment. Whoever got no error has a
// row, whoever got one has none, and the others notice nothing.
func txGivenUp(r *rig) {
	const callers = 64
	type call struct {
		id  stacyvm.SandboxID
		err error
	}
	calls := make([]call, callers)
	var wait sync.WaitGroup
	for i := range calls {
		calls[i].id = stacyvm.NewSandboxID()
		ctx, cancel := context.WithCancel(r.Context())
		if i%4 == 1 {
			time.AfterFunc(time.Duration(i)*100*time.Microsecond, cancel) // at any moment: the outcome may be either
		}
		wait.Go(func() {
			defer cancel()
			calls[i].err = r.Update(ctx, func(tx store.Tx) error {
				if i%4 == 3 {
					defer cancel() // after the write, before the end
				}
				return put(ctx, tx, calls[i].id)
			})
		})
	}
	wait.Wait()
	for i, c := range calls {
		switch {
		case i%2 == 0 && c.err != nil:
			r.Errorf("caller %d, who stayed, got %v", i, c.err)
		case i%4 == 3 && stacyvm.CodeOf(c.err) != stacyvm.CodeUnavailable:
			r.Errorf("caller %d, who left, got %v", i, c.err)
		case i%4 == 1 && c.err != nil && !errors.Is(c.err, context.Canceled):
			r.Errorf("caller %d got %v", i, c.err)
		case r.exists(c.id) != (c.err == nil):
			r.Errorf("caller %d got %v, row there: %v", i, c.err, r.exists(c.id))
		}
	}
	ended, cancel := context.WithCancel(r.Context())
	cancel()
	r.want(stacyvm.CodeUnavailable, r.Update(ended, func(store.Tx) error { r.Error("ran"); return nil }))
	r.want(stacyvm.CodeUnavailable, r.View(ended, func(store.Tx) error { r.Error("ran"); return nil }))
}

func txAfterEnd(r *rig) {
	var kept store.Tx
	r.update(func(_ context.Context, tx store.Tx) error { kept = tx; return nil })
	id := stacyvm.NewSandboxID()
	r.want(stacyvm.CodeInternal, put(r.Context(), kept, id))
	r.view(func(_ context.Context, tx store.Tx) error { kept = tx; return nil })
	_, err := kept.Sandboxes().Get(r.Context(), id)
	r.want(stacyvm.CodeInternal, err)
	if r.exists(id) {
		r.Error("a write after the end was kept")
	}
}

// txNoLostUpdate counts up in a row, reading and writing, from two connections.
func txNoLostUpdate(r *rig) {
	const writers, each = 8, 25
	stores := []store.Store{r.Store, r.another()}
	row := r.insert(func(s *stacyvm.Sandbox) { s.RuntimeID = "0" })
	var wait sync.WaitGroup
	for i := range writers {
		wait.Go(func() {
			for range each {
				err := stores[i%2].Update(r.Context(), func(tx store.Tx) error {
					now, err := tx.Sandboxes().Get(r.Context(), row.ID)
					if err != nil {
						return err
					}
					n, err := strconv.Atoi(now.RuntimeID)
					if err != nil {
						return err
					}
					_, err = tx.Sandboxes().Apply(r.Context(), row.ID, row.Fence, store.Change{RuntimeID: fmt.Sprint(n + 1)})
					return err
				})
				if err != nil {
					r.Error(err)
				}
			}
		})
	}
	wait.Wait()
	if got := r.row(row.ID).RuntimeID; got != fmt.Sprint(writers*each) {
		r.Errorf("counted to %s", got)
	}
}

// txQuota lets in exactly as many as the limit says, counting inside the transaction that inserts.
// All wait for one another, and on a busy machine more callers would wait longer than a
// transaction may take.
func txQuota(r *rig) {
	const callers, limit = 40, 10
	stores := []store.Store{r.Store, r.another()}
	errFull := stacyvm.Errorf(stacyvm.CodeLimit, "full")
	var admitted atomic.Int32
	var wait sync.WaitGroup
	for i := range callers {
		wait.Go(func() {
			err := stores[i%2].Update(r.Context(), func(tx store.Tx) error {
				n, err := tx.Sandboxes().Count(r.Context(), store.SandboxFilter{})
				if err == nil && n >= limit {
					return errFull
				}
				return errors.Join(err, put(r.Context(), tx, stacyvm.NewSandboxID()))
			})
			switch {
			case err == nil:
				admitted.Add(1)
			case stacyvm.CodeOf(err) != stacyvm.CodeLimit:
				r.Error(err)
			}
		})
	}
	wait.Wait()
	if n := r.count(); admitted.Load() != limit || n != limit {
		r.Errorf("%d were let in, %d rows are there; the limit is %d", admitted.Load(), n, limit)
	}
}

func txClosed(r *rig) {
	s := r.another()
	id := stacyvm.NewSandboxID()
	r.must(s.Update(r.Context(), func(tx store.Tx) error { return put(r.Context(), tx, id) }))
	r.must(s.Close())
	r.must(s.Close())
	r.want(stacyvm.CodeUnavailable, s.Update(r.Context(), func(store.Tx) error { return nil }))
	r.want(stacyvm.CodeUnavailable, s.View(r.Context(), func(store.Tx) error { return nil }))
	r.want(stacyvm.CodeUnavailable, s.Ping(r.Context()))
	_, err := s.Sandboxes().Get(r.Context(), id)
	r.want(stacyvm.CodeUnavailable, err)
	if !r.exists(id) {
		r.Error("the row went with its connection")
	}
}

func txTime(r *rig) {
	check := func(ctx context.Context, tx store.Tx) error {
		first, err := tx.Now(ctx)
		if err != nil {
			return err
		}
		r.clock.advance(time.Hour)
		second, err := tx.Now(ctx)
		if !second.Equal(first) || first.Location() != time.UTC {
			r.Errorf("the time went from %s to %s in a transaction", first, second)
		}
		return err
	}
	r.update(check)
	r.view(check)
}

func clusterIdentity(r *rig) {
	first, err := r.Cluster(r.Context())
	r.must(err)
	second, err := r.another().Cluster(r.Context())
	r.must(err)
	if len(first.ID) < 24 || first.Incarnation != 1 || first != second {
		r.Errorf("one database is %+v and %+v", first, second)
	}
	r.want("", r.Ping(r.Context()))
}
