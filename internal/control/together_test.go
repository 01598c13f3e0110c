package control_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// TestCreatesTogether holds up one create's transaction: those that come meanwhile share theirs,
// with keys and without, and each has what it would have alone. One key comes twice.
func TestCreatesTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &controltest.FaultStore{Store: controltest.OpenSQLite(t)}
		r := controltest.NewRigOn(t, s, nil)
		r.MustCreate(t) // what is known of the workers is read
		var updates atomic.Int64
		goOn := make(chan struct{})
		s.BeforeUpdate = func(context.Context) error {
			updates.Add(1)
			<-goOn
			return nil
		}
		const creates = 30
		var mu sync.Mutex
		made := map[stacyvm.SandboxID]int{}
		var callers sync.WaitGroup
		create := func(key control.Idempotency, want stacyvm.Code) {
			callers.Go(func() {
				sandbox, _, err := r.Create(r.Ctx, control.CreateRequest{}, key)
				if code := stacyvm.CodeOf(err); code != want && code != "" {
					t.Errorf("%v, want %q", err, want)
				}
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					made[sandbox.ID]++
				}
			})
		}
		for i := range creates {
			key := control.Idempotency{}
			if i%2 == 0 {
				key = control.Idempotency{Key: string(rune('a' + i)), Route: "r", BodyHash: "h"}
			}
			create(key, "")
		}
		synctest.Wait()
		twice := control.Idempotency{Key: "a", Route: "r", BodyHash: "h"}
		create(twice, stacyvm.CodeInProgress)
		create(control.Idempotency{Key: "c", Route: "r", BodyHash: "another"}, stacyvm.CodeKeyReused)
		synctest.Wait()
		if n := updates.Load(); n != 1 {
			t.Errorf("%d transactions at once", n)
		}
		close(goOn)
		callers.Wait()
		if len(made) != creates {
			t.Errorf("%d sandboxes, want %d", len(made), creates)
		}
		if n := updates.Load(); n > creates {
			t.Errorf("%d creates took %d transactions", creates, n)
		}
		for id := range made {
			if row := controltest.Row(t, s, id); row.State != stacyvm.StateRunning {
				t.Errorf("%s is %s", id, row.State)
			}
		}
		if lines := r.Operations(t, store.OperationFilter{Action: "sandbox.spawn", Limit: 100}); len(lines) < creates+1 {
			t.Errorf("%d lines of the audit", len(lines))
		}
		again, replayed, err := r.Create(r.Ctx, control.CreateRequest{}, twice)
		if err != nil || !replayed || made[again.ID] == 0 {
			t.Errorf("the repeat gave %s, %v, %v", again.ID, replayed, err)
		}
	})
}

// TestCreatesTogetherFail: the store refuses what they write together; each is tried alone then, and
// one whose own write is refused fails alone.
func TestCreatesTogetherFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &controltest.FaultStore{Store: controltest.OpenSQLite(t)}
		r := controltest.NewRigOn(t, s, nil)
		r.MustCreate(t)
		goOn := make(chan struct{})
		s.BeforeUpdate = func(context.Context) error { <-goOn; return nil }
		s.BeforeLine = func(line any) error {
			o, ok := line.(stacyvm.Operation)
			if ok && o.Action == "sandbox.spawn" && o.Resource == "poison" && o.Status == "ok" {
				return stacyvm.Errorf(stacyvm.CodeInternal, "refused")
			}
			return nil
		}
		var failed atomic.Int64
		var callers sync.WaitGroup
		for i := range 10 {
			request := control.CreateRequest{}
			if i == 5 {
				request.Image = "poison"
			}
			callers.Go(func() {
				if _, _, err := r.Create(r.Ctx, request, control.Idempotency{}); err != nil {
					controltest.WantCode(t, err, stacyvm.CodeInternal)
					failed.Add(1)
				}
			})
		}
		synctest.Wait()
		close(goOn)
		callers.Wait()
		if n := failed.Load(); n != 1 {
			t.Errorf("%d creates failed, want 1", n)
		}
	})
}
