package reconcile

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// told lists what subscribers are told of a sandbox, with the action of what was done unasked.
func (r *rig) told(id stacyvm.SandboxID) (kinds []string) {
	r.Helper()
	r.must(r.store.View(r.Context(), func(tx store.Tx) error {
		events, err := tx.Events().List(r.Context(), store.EventFilter{Tenant: "acme"})
		for _, n := range events {
			if n.SandboxID != id {
				continue
			}
			kind := string(n.Kind)
			if action, ok := n.Data["action"].(string); ok {
				kind += " " + action
			}
			kinds = append(kinds, kind)
		}
		return err
	}))
	return kinds
}

func TestWhatIsDoneUnaskedIsTold(t *testing.T) {
	inBubble(t, func(r *rig) {
		short, lost := r.sandbox(lives(time.Minute)), r.sandbox(nil)
		r.runtime(short, nil)
		r.must(r.Recover(r.Context()))
		r.runtime(lost, nil)
		r.must(r.Recover(r.Context()))
		time.Sleep(time.Minute)
		r.must(r.Reap(r.Context()))
		for id, want := range map[stacyvm.SandboxID][]string{
			short.ID: {"sandbox.running", "sandbox.destroyed", "reconcile.action expire"},
			lost.ID:  {"sandbox.running", "sandbox.unhealthy", "reconcile.action lose", "sandbox.running", "reconcile.action restore"},
		} {
			if got := r.told(id); !slices.Equal(got, want) {
				t.Errorf("of %s was told %v, want %v", id, got, want)
			}
		}
	})
}

func TestPurgeOfEvents(t *testing.T) {
	inBubble(t, func(r *rig) {
		r.must(r.Keep(r.Context()))
		kept := func() int { return len(r.told("")) }
		r.update(func(ctx context.Context, tx store.Tx) error {
			return tx.Events().Append(ctx, []stacyvm.Event{{Kind: stacyvm.KindExecStarted, TenantID: "acme"}})
		})
		time.Sleep(store.EventLife - time.Second)
		r.must(r.Purge(r.Context()))
		if kept() != 1 {
			r.Error("an event was forgotten within its day")
		}
		time.Sleep(2 * time.Second)
		r.must(r.Purge(r.Context()))
		if kept() != 0 {
			r.Error("an event outlived its day")
		}
	})
}
