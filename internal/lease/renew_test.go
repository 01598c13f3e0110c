package lease_test

import (
	"context"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/lease"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// lapsed makes sandboxes whose leases ran out while the process held them.
func (r *rig) lapsed(n int) []stacyvm.Sandbox {
	r.Helper()
	rows := r.boxes(n, "now")
	held := make([]store.Held, n)
	for i, row := range rows {
		held[i] = store.Held{Resource: string(row.ID), Epoch: 1}
	}
	r.update(func(ctx context.Context, tx store.Tx) error {
		_, err := tx.Leases().Renew(ctx, "w", "now", held, time.Microsecond)
		return err
	})
	return rows
}

func (r *rig) renew(within time.Duration) lease.Renewed {
	r.Helper()
	renewed, err := now.Renew(r.Context(), r.Store, always, stacyvm.LeaseTTL, within)
	if err != nil {
		r.Fatal(err)
	}
	return renewed
}

// TestRenewAfterAnOutage: 2,000 leases, or 10,000 with STACYVM_TEST_LONG, that ran out are all
// taken again, by renewals of which each takes some, and by transactions of which each is short.
// On an idle machine that takes a few seconds; the test prints how many.
func TestRenewAfterAnOutage(t *testing.T) {
	testneed.Patience(t)
	onEachDriver(t, func(r *rig) {
		all := testneed.Often(2_000, 10_000)
		rows := r.lapsed(all)
		began, rounds, before := time.Now(), 0, 0
		for {
			renewed := r.renew(time.Second)
			rounds++
			if len(renewed.Leases) <= before || len(renewed.Leases)+renewed.Lapsed != all {
				t.Fatalf("round %d: %d are held after %d, %d lapsed", rounds, len(renewed.Leases), before, renewed.Lapsed)
			}
			if before = len(renewed.Leases); renewed.Lapsed == 0 {
				break
			}
		}
		t.Logf("%d leases were taken again in %s and %d rounds", all, time.Since(began).Round(time.Millisecond), rounds)
		for _, row := range []stacyvm.Sandbox{rows[0], rows[all-1]} {
			if l := r.lease(row.ID); l.Session != "now" || l.Epoch != 2 {
				t.Errorf("the lease is %+v", l)
			}
		}
		if again := r.renew(time.Second); len(again.Leases) != all || again.Lapsed != 0 {
			t.Errorf("then %d are held, %d lapsed", len(again.Leases), again.Lapsed)
		}
	})
}

// TestRenewKeepsWhatItTook: a renewal that fails half-way, and one whose time is over, have taken
// what they had by then; what had not run out is extended by the first statement.
func TestRenewKeepsWhatItTook(t *testing.T) {
	onEachDriver(t, func(r *rig) {
		alive, rows := r.boxes(3, "now"), r.lapsed(450)
		if first := r.renew(0); len(first.Leases) != len(alive) || first.Lapsed != len(rows) {
			t.Fatalf("without any time: %d held, %d lapsed", len(first.Leases), first.Lapsed)
		}
		transactions := 0
		away := stacyvm.Errorf(stacyvm.CodeUnavailable, "the database went away again")
		_, err := now.Renew(t.Context(), r.Store, func(context.Context, store.Tx) error {
			if transactions++; transactions == 3 {
				return away
			}
			return nil
		}, stacyvm.LeaseTTL, time.Minute)
		if stacyvm.CodeOf(err) != stacyvm.CodeUnavailable || transactions != 3 {
			t.Fatalf("%d transactions, %v", transactions, err)
		}
		taken := 0
		for _, row := range rows {
			if r.lease(row.ID).Epoch == 2 {
				taken++
			}
		}
		if taken == 0 || taken == len(rows) {
			t.Fatalf("%d of %d are taken again", taken, len(rows))
		}
		if rest := r.renew(time.Minute); len(rest.Leases) != len(alive)+len(rows) || rest.Lapsed != 0 {
			t.Errorf("the next one holds %d, %d lapsed", len(rest.Leases), rest.Lapsed)
		}
	})
}

// TestRenewRefuses: what another worker has taken and what has ended is neither held nor lapsed; a
// process that is no longer the registered one renews nothing.
func TestRenewRefuses(t *testing.T) {
	onEachDriver(t, func(r *rig) {
		rows := r.lapsed(4)
		r.update(func(ctx context.Context, tx store.Tx) error {
			if _, err := tx.Sandboxes().Apply(ctx, rows[0].ID, rows[0].Fence, store.Change{State: stacyvm.StateDestroyed}); err != nil {
				return err
			}
			_, err := tx.Leases().Acquire(ctx, store.LeaseRequest{Resource: string(rows[1].ID), Type: lease.TypeSandbox, Holder: "other", Session: "s", TTL: time.Minute})
			return err
		})
		_, err := now.Renew(t.Context(), r.Store, func(context.Context, store.Tx) error {
			return stacyvm.Errorf(stacyvm.CodeConflict, "another process is registered")
		}, stacyvm.LeaseTTL, time.Minute)
		if stacyvm.CodeOf(err) != stacyvm.CodeConflict {
			t.Errorf("one that is not registered: %v", err)
		}
		later := lease.Holder{Worker: "w", Session: "later"}
		transactions := 0
		_, err = now.Renew(t.Context(), r.Store, func(ctx context.Context, tx store.Tx) error {
			if transactions++; transactions == 2 { // a later process takes one between the list and the batch
				_, err := later.Acquire(ctx, tx, rows[3].ID, time.Minute)
				return err
			}
			return nil
		}, stacyvm.LeaseTTL, time.Minute)
		if l := r.lease(rows[3].ID); err != nil || l.Session != "later" {
			t.Errorf("%v, a later process's lease is %+v", err, l)
		}
		renewed := r.renew(time.Minute)
		if len(renewed.Leases) != 1 || renewed.Leases[0].Resource != string(rows[2].ID) || renewed.Lapsed != 0 {
			t.Errorf("%+v", renewed)
		}
	})
}
