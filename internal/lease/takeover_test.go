package lease_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stacyvm/stacyvm/internal/lease"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	before = lease.Holder{Worker: "w", Session: "before"}
	now    = lease.Holder{Worker: "w", Session: "now"}
)

// rig is an empty database.
type rig struct {
	*testing.T
	store.Store
}

func onEachDriver(t *testing.T, test func(*rig)) {
	for name, config := range map[string]func(testing.TB) store.Config{
		"sqlite":   func(t testing.TB) store.Config { return store.Config{Path: filepath.Join(t.TempDir(), "stacyvm.db")} },
		"postgres": func(t testing.TB) store.Config { return store.Config{Driver: "postgres", DSN: postgrestest.Schema(t)} },
	} {
		t.Run("driver="+name, func(t *testing.T) {
			s, err := store.Open(t.Context(), config(t))
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = s.Close() }()
			test(&rig{t, s})
		})
	}
}

func (r *rig) update(write func(ctx context.Context, tx store.Tx) error) {
	r.Helper()
	if err := r.Update(r.Context(), func(tx store.Tx) error { return write(r.Context(), tx) }); err != nil {
		r.Fatal(err)
	}
}

// boxes makes sandboxes of the worker, which a session holds.
func (r *rig) boxes(n int, session string) (rows []stacyvm.Sandbox) {
	r.Helper()
	r.update(func(ctx context.Context, tx store.Tx) error {
		rows = nil
		for range n {
			held, err := tx.Sandboxes().InsertHeld(ctx, session, time.Minute, stacyvm.Sandbox{
				ID: stacyvm.NewSandboxID(), State: stacyvm.StateRunning, Desired: stacyvm.DesiredRunning, WorkerID: "w",
				Spec: stacyvm.Spec{TTL: time.Hour}, Fence: stacyvm.Fence{Incarnation: 1},
			})
			if err != nil {
				return err
			}
			rows = append(rows, held...)
		}
		return nil
	})
	return rows
}

func (r *rig) lease(id stacyvm.SandboxID) (l stacyvm.Lease) {
	r.Helper()
	r.update(func(ctx context.Context, tx store.Tx) (err error) {
		l, err = tx.Leases().Get(ctx, string(id))
		return err
	})
	return l
}

func always(context.Context, store.Tx) error { return nil }

// TestTakeOver: the registered process gets what it does not hold, each with a new epoch, and
// keeps what it holds as it is; what another worker has, and what has ended, is refused and named.
func TestTakeOver(t *testing.T) {
	onEachDriver(t, func(r *rig) {
		earlier, own, lost := r.boxes(450, "before"), r.boxes(3, "now"), r.boxes(1, "before")[0]
		ended := r.boxes(1, "before")[0]
		r.update(func(ctx context.Context, tx store.Tx) error {
			if err := tx.Leases().Release(ctx, string(lost.ID), "w", 1); err != nil {
				return err
			}
			_, err := tx.Leases().Acquire(ctx, store.LeaseRequest{Resource: string(lost.ID), Type: "other", Holder: "other", Session: "s", TTL: time.Minute})
			if err != nil {
				return err
			}
			_, err = tx.Sandboxes().Apply(ctx, ended.ID, ended.Fence, store.Change{State: stacyvm.StateDestroyed})
			return err
		})
		taken, refused, err := now.TakeOver(t.Context(), r.Store, always)
		if err != nil || len(taken) != len(earlier) || len(refused) != 1 || refused[0].ID != lost.ID {
			t.Fatalf("%d taken, %d refused, %v", len(taken), len(refused), err)
		}
		for _, row := range earlier {
			if l := r.lease(row.ID); l.Session != "now" || l.Epoch != 2 {
				t.Fatalf("an earlier one's lease is %+v", l)
			}
		}
		for _, row := range own {
			if l := r.lease(row.ID); l.Session != "now" || l.Epoch != 1 {
				t.Errorf("its own is %+v", l)
			}
		}
		if again, _, err := now.TakeOver(t.Context(), r.Store, always); err != nil || len(again) != 0 {
			t.Errorf("a second time it takes %d, %v", len(again), err)
		}
	})
}

// TestTakeOverEnds: a process that is no longer the registered one takes nothing more.
func TestTakeOverEnds(t *testing.T) {
	onEachDriver(t, func(r *rig) {
		r.boxes(450, "before")
		batches := 0
		no := stacyvm.Errorf(stacyvm.CodeConflict, "another process is registered")
		taken, _, err := now.TakeOver(t.Context(), r.Store, func(context.Context, store.Tx) error {
			if batches++; batches == 2 {
				return no
			}
			return nil
		})
		if stacyvm.CodeOf(err) != stacyvm.CodeConflict || len(taken) == 0 || len(taken) == 450 || batches != 2 {
			t.Errorf("%d taken in %d transactions, %v", len(taken), batches, err)
		}
		for _, row := range taken {
			if l := r.lease(row.ID); l.Session != now.Session {
				t.Fatalf("one that it says to have taken is %+v", l)
			}
		}
		back, _, err := before.TakeOver(t.Context(), r.Store, always)
		if err != nil || len(back) != len(taken) {
			t.Errorf("the other one gets %d back, %v", len(back), err)
		}
	})
}
