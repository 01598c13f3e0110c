package control_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// TestPruneGoesOn: one sandbox whose worker refuses, and more that stick than are removed at a
// time, keep none of the others.
func TestPruneGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &rig{controltest.NewRigOn(t, controltest.OpenSQLite(t), nil)}
		short := time.Minute
		ids := make([]stacyvm.SandboxID, 40)
		for i := range ids {
			sandbox, _, err := r.Create(r.Ctx, control.CreateRequest{TTL: &short}, control.Idempotency{})
			if err != nil {
				t.Fatal(err)
			}
			ids[i] = sandbox.ID
		}
		time.Sleep(2 * short)
		refused, stuck := ids[0], ids[1:21]
		r.Machine.BeforeDestroy = func(ctx context.Context, ref stacyvm.Ref) error {
			switch {
			case ref.ID == refused:
				return stacyvm.Errorf(stacyvm.CodeUnavailable, "not now")
			case slices.Contains(stuck, ref.ID):
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}
		pruned, err := r.Prune(r.Ctx)
		if pruned != len(ids)-1-len(stuck) || stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
			t.Errorf("pruned %d, %v", pruned, err)
		}
		for _, id := range ids {
			row := controltest.Row(t, r.Store, id)
			if left := id == refused || slices.Contains(stuck, id); left == (row.State == stacyvm.StateDestroyed) {
				t.Errorf("%s is %s", id, row.State)
			}
		}
		r.Machine.BeforeDestroy = nil
		if pruned, err := r.Prune(r.Ctx); pruned != 1+len(stuck) || err != nil {
			t.Errorf("then pruned %d, %v", pruned, err)
		}
	})
}
