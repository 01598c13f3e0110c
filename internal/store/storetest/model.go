package storetest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"pgregory.net/rapid"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// leaseModel compares random histories with a model in memory. The clock jumps forth and back by
// up to an hour.
func leaseModel(r *rig) {
	var runs atomic.Int64
	rapid.Check(r.T, func(t *rapid.T) {
		m := &model{r: r, leases: map[string]stacyvm.Lease{}, run: runs.Add(1)}
		t.Repeat(map[string]func(*rapid.T){
			"acquire": m.acquire,
			"renew":   m.renew,
			"release": m.release,
			"time":    m.time,
			"":        m.check,
		})
	})
}

// model is what the leases of one history should be.
type model struct {
	r      *rig
	run    int64
	leases map[string]stacyvm.Lease
}

func (m *model) resource(t *rapid.T) string {
	return fmt.Sprintf("%d-%s", m.run, rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "resource"))
}

func holder(t *rapid.T) stacyvm.WorkerID {
	return rapid.SampledFrom([]stacyvm.WorkerID{"w1", "w2"}).Draw(t, "holder")
}

func session(t *rapid.T) string { return rapid.SampledFrom([]string{"s1", "s2"}).Draw(t, "session") }

func seconds(t *rapid.T, name string, from, to int) time.Duration {
	return time.Duration(rapid.IntRange(from, to).Draw(t, name)) * time.Second
}

// in runs one step and tells the model the database's time in it.
func (m *model) in(t *rapid.T, step func(ctx context.Context, tx store.Tx, now time.Time) error) {
	ctx := m.r.Context()
	err := m.r.Update(ctx, func(tx store.Tx) error {
		now, err := tx.Now(ctx)
		if err != nil {
			return err
		}
		return step(ctx, tx, now)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (m *model) acquire(t *rapid.T) {
	request := store.LeaseRequest{
		Resource: m.resource(t), Type: "duty", Holder: holder(t), Session: session(t),
		TTL: seconds(t, "ttl", 1, 60), Grace: seconds(t, "grace", 0, 10), Successor: rapid.Bool().Draw(t, "successor"),
	}
	m.in(t, func(ctx context.Context, tx store.Tx, now time.Time) error {
		l := m.leases[request.Resource]
		mine := l.Holder == request.Holder && (l.Session == request.Session || request.Successor)
		free := l.Holder == "" || mine || !now.Before(l.ExpiresAt.Add(request.Grace))
		got, err := tx.Leases().Acquire(ctx, request)
		if !free {
			if stacyvm.CodeOf(err) != stacyvm.CodeConflict {
				t.Fatalf("acquired %+v although %+v holds at %s: %v", got, l, now, err)
			}
			return nil
		}
		want := stacyvm.Lease{
			Resource: request.Resource, Type: "duty", Holder: request.Holder, Session: request.Session,
			Epoch: l.Epoch + 1, Generation: l.Generation + 1, ExpiresAt: now.Add(request.TTL),
		}
		if err != nil || got != want {
			t.Fatalf("acquired %+v, want %+v, %v", got, want, err)
		}
		m.leases[request.Resource] = want
		return nil
	})
}

func (m *model) renew(t *rapid.T) {
	who, session, ttl := holder(t), session(t), seconds(t, "ttl", 1, 60)
	var held []store.Held
	for _, resource := range slices.Sorted(maps.Keys(m.leases)) {
		if rapid.Bool().Draw(t, "listed") {
			behind := rapid.Int64Range(0, 1).Draw(t, "behind")
			held = append(held, store.Held{Resource: resource, Epoch: m.leases[resource].Epoch - behind})
		}
	}
	m.in(t, func(ctx context.Context, tx store.Tx, now time.Time) error {
		want := map[string]stacyvm.Lease{}
		for _, h := range held {
			l := m.leases[h.Resource]
			if l.Holder == who && l.Session == session && l.Epoch == h.Epoch && now.Before(l.ExpiresAt) {
				l.ExpiresAt, l.Generation = now.Add(ttl), l.Generation+1
				want[h.Resource] = l
			}
		}
		got := map[string]stacyvm.Lease{}
		renewed, err := tx.Leases().Renew(ctx, who, session, held, ttl)
		for _, l := range renewed {
			got[l.Resource] = l
		}
		if err != nil || !maps.Equal(got, want) {
			t.Fatalf("renewed %+v, want %+v, %v", got, want, err)
		}
		maps.Copy(m.leases, want)
		return nil
	})
}

func (m *model) release(t *rapid.T) {
	resource, who := m.resource(t), holder(t)
	l := m.leases[resource]
	epoch := l.Epoch - rapid.Int64Range(0, 1).Draw(t, "behind")
	m.in(t, func(ctx context.Context, tx store.Tx, now time.Time) error {
		err := tx.Leases().Release(ctx, resource, who, epoch)
		if l.Holder != who || l.Epoch != epoch {
			if stacyvm.CodeOf(err) != stacyvm.CodeNotFound {
				t.Fatalf("%s released epoch %d of %+v: %v", who, epoch, l, err)
			}
			return nil
		}
		l.Holder, l.Session, l.Generation, l.ExpiresAt = "", "", l.Generation+1, now
		m.leases[resource] = l
		return err
	})
}

func (m *model) time(t *rapid.T) {
	if rapid.IntRange(0, 9).Draw(t, "jump") == 0 {
		m.r.clock.advance(seconds(t, "jump by", -3600, 3600))
		return
	}
	m.r.clock.advance(seconds(t, "pass", 0, 30))
}

// check compares every lease of this history.
func (m *model) check(t *rapid.T) {
	for resource, want := range m.leases {
		if got, err := m.r.lease(resource); err != nil || got != want {
			t.Fatalf("the database has %+v, the model %+v, %v", got, want, err)
		}
	}
}
