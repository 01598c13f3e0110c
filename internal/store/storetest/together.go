package storetest

import (
	"context"
	"fmt"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// many is more than one statement takes, and no power of two.
const many = 39

// sandboxesTogether writes many rows at once, and starts those of them that may.
func sandboxesTogether(r *rig) {
	asked := make([]stacyvm.Sandbox, many)
	for i := range asked {
		asked[i] = stacyvm.Sandbox{
			ID: stacyvm.NewSandboxID(), State: stacyvm.StateCreating, Desired: stacyvm.DesiredRunning, WorkerID: "w",
			Spec: stacyvm.Spec{TTL: time.Hour}, Fence: stacyvm.Fence{Incarnation: 7}, Metadata: map[string]string{"n": fmt.Sprint(i)},
		}
	}
	var rows []stacyvm.Sandbox
	r.update(func(ctx context.Context, tx store.Tx) (err error) {
		rows, err = tx.Sandboxes().InsertHeld(ctx, "s", stacyvm.LeaseTTL, asked...)
		return err
	})
	for i, row := range rows {
		held, err := r.lease(string(asked[i].ID))
		r.must(err)
		if diff := cmp.Diff(row, r.row(asked[i].ID)); diff != "" || row.Metadata["n"] != fmt.Sprint(i) || held.Session != "s" || held.Epoch != 1 {
			r.Errorf("row %d:\n%s\nlease %+v", i, diff, held)
		}
	}
	stale, unwanted, gone := rows[3].ID, rows[20].ID, rows[38].ID
	_, err := r.acquire(store.LeaseRequest{Resource: string(stale), Type: "sandbox", Holder: "w", Session: "s", TTL: stacyvm.LeaseTTL})
	r.must(err)
	r.update(func(ctx context.Context, tx store.Tx) error {
		if _, err := tx.Sandboxes().Want(ctx, unwanted, store.Wish{Desired: stacyvm.DesiredDestroyed}); err != nil {
			return err
		}
		_, err := tx.Sandboxes().Apply(ctx, gone, rows[38].Fence, store.Change{State: stacyvm.StateDestroyed})
		return err
	})
	left := map[stacyvm.SandboxID]stacyvm.Sandbox{}
	for _, id := range []stacyvm.SandboxID{stale, unwanted, gone} {
		left[id] = r.row(id)
	}
	r.clock.advance(time.Minute)
	started := []store.Started{{ID: stacyvm.NewSandboxID(), Fence: rows[0].Fence}}
	for i, row := range rows {
		one := store.Started{ID: row.ID, Fence: row.Fence}
		if i == 1 {
			one.RuntimeID, one.Unenforced = "rt-1", []stacyvm.Limit{"cpu"}
		}
		started = append(started, one)
	}
	var running []stacyvm.Sandbox
	r.update(func(ctx context.Context, tx store.Tx) (err error) {
		running, err = tx.Sandboxes().Start(ctx, started)
		return err
	})
	if len(running) != many-len(left) {
		r.Errorf("%d started, want %d", len(running), many-len(left))
	}
	for _, row := range running {
		if diff := cmp.Diff(row, r.row(row.ID)); diff != "" || row.State != stacyvm.StateRunning {
			r.Errorf("%s is %s:\n%s", row.ID, row.State, diff)
		}
		if life := row.ExpiresAt.Sub(row.UpdatedAt); life != time.Hour {
			r.Errorf("it has %s to live when it first runs", life)
		}
		if own := row.ID == rows[1].ID; (row.RuntimeID == "rt-1") != own || (len(row.Unenforced) == 1) != own {
			r.Errorf("runtime %q, unenforced %q", row.RuntimeID, row.Unenforced)
		}
	}
	for id, before := range left {
		if diff := cmp.Diff(before, r.row(id)); diff != "" {
			r.Errorf("one that may not start was changed:\n%s", diff)
		}
	}
}

// idempotencyTogether claims many keys at once; those that somebody has, also twice in one list, are
// left.
func idempotencyTogether(r *rig) {
	claims := make([]store.IdempotencyRecord, many)
	for i := range claims {
		claims[i] = store.IdempotencyRecord{Scope: "s", Key: fmt.Sprint("k", i), BodyHash: "h", Sandbox: stacyvm.NewSandboxID()}
	}
	taken := claims[5]
	taken.Sandbox = stacyvm.NewSandboxID()
	r.begin(taken)
	claims[30].Key = claims[29].Key
	var begun []bool
	r.update(func(ctx context.Context, tx store.Tx) (err error) {
		begun, err = tx.Idempotency().BeginNew(ctx, claims)
		return err
	})
	for i := range claims {
		if begun[i] == (i == 5 || i == 30) {
			r.Errorf("claim %d: %v", i, begun[i])
		}
		claims[i].Status, claims[i].Body = 201, fmt.Append(nil, i, "\x00\xff")
	}
	r.update(func(ctx context.Context, tx store.Tx) error { return tx.Idempotency().Finish(ctx, claims...) })
	for i, claim := range claims {
		known := r.begin(claim)
		claim.Done = true
		switch {
		case i == 5 && (known == nil || known.Done || known.Sandbox != taken.Sandbox):
			r.Errorf("the claim of another is %+v", known)
		case i == 30 && (known == nil || known.Sandbox != claims[29].Sandbox):
			r.Errorf("the second claim of one key is %+v", known)
		case i != 5 && i != 30 && (known == nil || !cmp.Equal(*known, claim)):
			r.Errorf("claim %d is %+v, want %+v", i, known, claim)
		}
	}
}
