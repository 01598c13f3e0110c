package store_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
	"github.com/stacyvm/stacyvm/internal/store/storetest"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// healthyWithin is how long after the server's return a store may take to work again.
const healthyWithin = 5 * time.Second

// load does deeds from several clients until it is stopped.
type load struct {
	t       *testing.T
	most    int // so many about each sandbox
	clients sync.WaitGroup
	stopped atomic.Bool
	refused atomic.Int64
	journal
}

func startLoad(t *testing.T, most int, stores ...store.Store) *load {
	l := &load{t: t, most: most}
	for i := range 8 {
		l.clients.Go(func() {
			for !l.stopped.Load() {
				l.write(stores[i%len(stores)])
			}
		})
	}
	t.Cleanup(l.stop)
	return l
}

func (l *load) write(s store.Store) {
	switch err := live(context.Background(), s, l.most, l.note); stacyvm.CodeOf(err) {
	case "":
	case stacyvm.CodeUnavailable:
		l.refused.Add(1)
	default:
		l.t.Errorf("a write got %v", err)
		l.stopped.Store(true)
	}
}

// progress waits until so many more writes were answered.
func (l *load) progress(n int) {
	l.t.Helper()
	count := func() int { l.mu.Lock(); defer l.mu.Unlock(); return l.answered }
	for began, deadline := count(), time.Now().Add(time.Minute); count() < began+n; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) || l.stopped.Load() {
			l.t.Fatal("the writers make no progress")
		}
	}
}

// first is a sandbox whose create was answered.
func (l *load) first() stacyvm.SandboxID {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, list := range l.deeds {
		if !list[0].At.IsZero() {
			return id
		}
	}
	return ""
}

func (l *load) stop() {
	l.stopped.Store(true)
	l.clients.Wait()
}

// wantHealthy waits until a store answers reads and writes.
func wantHealthy(t *testing.T, s store.Store) {
	t.Helper()
	began := time.Now()
	for {
		err := s.Update(t.Context(), func(tx store.Tx) error {
			_, err := tx.Workers().Save(t.Context(), stacyvm.Worker{ID: "health"})
			return err
		})
		if err == nil {
			err = s.Ping(t.Context())
		}
		took := time.Since(began)
		if err == nil && took < healthyWithin {
			return
		}
		if took > healthyWithin || stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
			t.Fatalf("after %s: %v", took, err)
		}
	}
}

// TestPostgresRestarts kills and starts the server again and again while clients write.
func TestPostgresRestarts(t *testing.T) {
	server := postgrestest.Start(t)
	s := open(t, store.Config{Driver: "postgres", DSN: server.DSN})
	l := startLoad(t, len(deeds), s)
	for range testneed.Often(3, 20) {
		l.progress(50)
		server.Restart()
		wantHealthy(t, s)
	}
	l.progress(50)
	l.stop()
	t.Logf("%d writes got no answer", l.refused.Load())
	l.check(t, store.Config{Driver: "postgres", DSN: server.DSN}, asTheyAre)
	checkIndexes(t, server.DSN)
	if cluster, err := s.Cluster(t.Context()); err != nil || cluster.Incarnation != 1 {
		t.Errorf("after restarts: %+v, %v", cluster, err)
	}
}

// TestPostgresPromotion kills a primary under the load of two stores and promotes its synchronous
// standby: nothing that was answered is lost, the incarnation rises once, and who held something
// before it writes nothing any more.
func TestPostgresPromotion(t *testing.T) {
	primary := postgrestest.Start(t)
	standby := primary.Standby()
	admin := postgrestest.Connect(t, primary.DSN)
	for _, text := range []string{`ALTER SYSTEM SET synchronous_standby_names = '*'`, `SELECT pg_reload_conf()`} {
		if _, err := admin.ExecContext(t.Context(), text); err != nil {
			t.Fatal(err)
		}
	}
	both := strings.Replace(primary.DSN, "host="+primary.Dir, "host="+primary.Dir+","+standby.Dir, 1)
	config := store.Config{Driver: "postgres", DSN: both}
	stores := []store.Store{open(t, config), open(t, config)}
	l := startLoad(t, 1, stores...) // a change needs the incarnation that its sandbox has after the promotion
	l.progress(100)
	old := l.first()
	primary.Halt()
	standby.Promote()
	for _, s := range stores {
		wantHealthy(t, s)
	}
	l.progress(100)
	l.stop()
	for i, s := range stores {
		if cluster, err := s.Cluster(t.Context()); err != nil || cluster.Incarnation != 2 {
			t.Errorf("store %d: %+v, %v", i, cluster, err)
		}
	}
	t.Logf("%d writes got no answer", l.refused.Load())
	l.check(t, config, func(row *stacyvm.Sandbox) {
		if row.Fence.Incarnation == 2 { // it was raised with the promotion, which is a change
			row.Fence.Incarnation, row.UpdatedAt = 1, row.CreatedAt
		}
	})
	checkIndexes(t, standby.DSN)
	apply := func(incarnation int64) error {
		return stores[1].Update(t.Context(), func(tx store.Tx) error {
			_, err := tx.Sandboxes().Apply(t.Context(), old, stacyvm.Fence{Incarnation: incarnation, Epoch: 1}, store.Change{RuntimeID: fmt.Sprint(incarnation)})
			return err
		})
	}
	if err := apply(1); stacyvm.CodeOf(err) != stacyvm.CodeStaleEpoch {
		t.Errorf("a write of the incarnation before got %v", err)
	}
	if err := apply(2); err != nil {
		t.Errorf("a write of the new incarnation got %v", err)
	}
}

// TestPostgresPromotionIsReadOf: a read without a transaction notices a promotion before it
// answers, and so the incarnation is raised.
func TestPostgresPromotionIsReadOf(t *testing.T) {
	primary := postgrestest.Start(t)
	standby := primary.Standby()
	both := strings.Replace(primary.DSN, "host="+primary.Dir, "host="+primary.Dir+","+standby.Dir, 1)
	s := open(t, store.Config{Driver: "postgres", DSN: both})
	id, err := storetest.AddSandboxes(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	find := func() (err error) {
		_, err = s.Sandboxes().Get(t.Context(), id)
		return err
	}
	if err := find(); err != nil {
		t.Fatal(err)
	}
	replica := postgrestest.Connect(t, standby.DSN)
	for there := false; !there; { // what was committed is on the standby
		if err := replica.QueryRowContext(t.Context(), `SELECT count(*) = 1 FROM sandboxes WHERE id = $1`, string(id)).Scan(&there); err != nil {
			t.Fatal(err)
		}
	}
	primary.Halt()
	standby.Promote()
	for err := find(); err != nil; err = find() {
		if stacyvm.CodeOf(err) != stacyvm.CodeUnavailable || t.Context().Err() != nil {
			t.Fatal(err)
		}
	}
	var incarnation int
	if err := replica.QueryRowContext(t.Context(), `SELECT incarnation FROM cluster`).Scan(&incarnation); err != nil || incarnation != 2 {
		t.Errorf("incarnation %d after a read: %v", incarnation, err)
	}
}
