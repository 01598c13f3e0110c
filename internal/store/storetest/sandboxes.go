package storetest

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// sandboxFirstRun: the time of a sandbox counts from the moment when it runs for the first time;
// one that is being created does not expire while its maker is there, and one that is made known
// as running again gets no new time.
func sandboxFirstRun(r *rig) {
	row := r.insert(func(s *stacyvm.Sandbox) { s.Spec.TTL = time.Second })
	expired := func() (found bool) {
		r.view(func(ctx context.Context, tx store.Tx) error {
			rows, err := tx.Sandboxes().List(ctx, store.SandboxFilter{Expired: true})
			found = slices.Contains(ids(rows), row.ID)
			return err
		})
		return found
	}
	apply := func(state stacyvm.State) (now stacyvm.Sandbox) {
		r.update(func(ctx context.Context, tx store.Tx) (err error) {
			now, err = tx.Sandboxes().Apply(ctx, row.ID, row.Fence, store.Change{State: state})
			return err
		})
		return now
	}
	r.clock.advance(stacyvm.CreateAbandonedAfter - time.Second)
	if expired() {
		r.Error("a sandbox expired before it ran")
	}
	r.clock.advance(2 * time.Second)
	if !expired() {
		r.Error("a sandbox whose maker is gone does not expire")
	}
	running := apply(stacyvm.StateRunning)
	if left := running.ExpiresAt.Sub(running.UpdatedAt); left != time.Second || expired() {
		r.Errorf("it runs for %s", left)
	}
	late := r.insert(func(s *stacyvm.Sandbox) { s.Spec.TTL = time.Second })
	r.clock.advance(2 * time.Second)
	r.update(func(ctx context.Context, tx store.Tx) error {
		_, err := tx.Sandboxes().Want(ctx, late.ID, store.Wish{TTL: time.Hour})
		return err
	})
	r.clock.advance(2 * time.Second)
	r.update(func(ctx context.Context, tx store.Tx) error {
		now, err := tx.Sandboxes().Apply(ctx, late.ID, late.Fence, store.Change{State: stacyvm.StateRunning})
		if left := now.ExpiresAt.Sub(now.UpdatedAt); left != time.Hour {
			r.Errorf("extended before it ran, it runs for %s", left)
		}
		return err
	})
	apply(stacyvm.StateUnhealthy)
	if again := apply(stacyvm.StateRunning); !again.ExpiresAt.Equal(running.ExpiresAt) || !expired() {
		r.Errorf("it expires at %s, and at %s once it was found again", running.ExpiresAt, again.ExpiresAt)
	}
}

func sandboxFields(r *rig) {
	before := r.insert(func(s *stacyvm.Sandbox) {
		s.Cause = stacyvm.Cause{Reason: "why", Detail: "so", Since: time.UnixMicro(1).UTC()}
		s.RuntimeID, s.Recovered = "rt-1", true
		s.OwnerID, s.TenantID = "änn 'x' \"y\" -- ; $1 ?", "acme"
		s.Spec = stacyvm.Spec{
			Image: "host", Provider: "mock", MemoryMB: 512, VCPUs: 2, DiskMB: 1 << 20, TTL: 90 * time.Minute,
			Network: stacyvm.NetworkNone, Env: map[string]string{"A": "1\n\t\"", "Ü": "€"},
		}
		s.Unenforced = []stacyvm.Limit{"cpu", "disk"}
		s.Metadata = map[string]string{"k": "v", "": "empty", "e": ""}
		s.Fence = stacyvm.Fence{Incarnation: 3, Epoch: 1 << 40}
	})
	if diff := cmp.Diff(before, r.row(before.ID)); diff != "" {
		r.Errorf("a row changed by being kept:\n%s", diff)
	}
	if before.CreatedAt.IsZero() || !before.UpdatedAt.Equal(before.CreatedAt) || before.ExpiresAt.Sub(before.CreatedAt) != 90*time.Minute || before.CreatedAt.Location() != time.UTC {
		r.Errorf("times: created %s, updated %s, expires %s", before.CreatedAt, before.UpdatedAt, before.ExpiresAt)
	}
	plain := r.insert(nil)
	if diff := cmp.Diff(plain, r.row(plain.ID)); diff != "" {
		r.Errorf("a row without optional fields changed:\n%s", diff)
	}
	r.want(stacyvm.CodeConflict, r.try(func(ctx context.Context, tx store.Tx) error {
		_, err := tx.Sandboxes().Insert(ctx, stacyvm.Sandbox{ID: plain.ID, State: stacyvm.StateRunning})
		return err
	}))
	r.want(stacyvm.CodeNotFound, r.View(r.Context(), func(tx store.Tx) error {
		_, err := tx.Sandboxes().Get(r.Context(), stacyvm.NewSandboxID())
		return err
	}))
	if got := r.row(plain.ID); got.State != stacyvm.StateCreating {
		r.Errorf("a refused insert changed the row to %s", got.State)
	}
}

func sandboxLists(r *rig) {
	in := func(state stacyvm.State, owner, tenant string, worker stacyvm.WorkerID, provider string) stacyvm.SandboxID {
		return r.insert(func(s *stacyvm.Sandbox) {
			s.State, s.OwnerID, s.TenantID, s.WorkerID, s.Provider = state, owner, tenant, worker, provider
		}).ID
	}
	a := in(stacyvm.StateRunning, "ann", "acme", "w1", "mock")
	b := in(stacyvm.StateRunning, "bob", "acme", "w2", "mock")
	c := in(stacyvm.StateError, "ann", "other", "w1", "gvisor")
	d := in(stacyvm.StateDestroyed, "ann", "acme", "w1", "mock")
	e := in(stacyvm.StateCreating, "ann", "", "w1", "mock")
	tests := map[string]struct {
		filter store.SandboxFilter
		want   []stacyvm.SandboxID // newest first
	}{
		"active":            {store.SandboxFilter{}, []stacyvm.SandboxID{e, c, b, a}},
		"owner":             {store.SandboxFilter{Owner: "ann"}, []stacyvm.SandboxID{e, c, a}},
		"tenant":            {store.SandboxFilter{Tenant: "acme"}, []stacyvm.SandboxID{b, a}},
		"owner and tenant":  {store.SandboxFilter{Owner: "ann", Tenant: "acme"}, []stacyvm.SandboxID{a}},
		"worker":            {store.SandboxFilter{Worker: "w1"}, []stacyvm.SandboxID{e, c, a}},
		"provider":          {store.SandboxFilter{Provider: "gvisor"}, []stacyvm.SandboxID{c}},
		"states":            {store.SandboxFilter{States: []stacyvm.State{stacyvm.StateError, stacyvm.StateCreating}}, []stacyvm.SandboxID{e, c}},
		"tombstones":        {store.SandboxFilter{States: []stacyvm.State{stacyvm.StateDestroyed}}, []stacyvm.SandboxID{d}},
		"tombstones and":    {store.SandboxFilter{States: []stacyvm.State{stacyvm.StateDestroyed, stacyvm.StateRunning}, Owner: "ann"}, []stacyvm.SandboxID{d, a}},
		"limit":             {store.SandboxFilter{Page: store.Page{Limit: 2}}, []stacyvm.SandboxID{e, c}},
		"nobody's":          {store.SandboxFilter{Owner: "ann' OR '1'='1"}, []stacyvm.SandboxID{}},
		"case is respected": {store.SandboxFilter{Owner: "ANN"}, []stacyvm.SandboxID{}},
	}
	for name, tt := range tests {
		r.view(func(ctx context.Context, tx store.Tx) error {
			rows, err := tx.Sandboxes().List(ctx, tt.filter)
			if err != nil {
				return err
			}
			if got := ids(rows); !slices.Equal(got, tt.want) {
				r.Errorf("%s: got %v, want %v", name, got, tt.want)
			}
			if tt.filter.Limit != 0 {
				return nil
			}
			n, err := tx.Sandboxes().Count(ctx, tt.filter)
			if n != len(tt.want) {
				r.Errorf("%s: counted %d, want %d", name, n, len(tt.want))
			}
			return err
		})
	}
}

// sandboxPages walks a list whose rows share their time of creation, and that grows at its head
// meanwhile.
func sandboxPages(r *rig) {
	const rows = 45
	want := map[stacyvm.SandboxID]bool{}
	r.update(func(ctx context.Context, tx store.Tx) error {
		for range rows { // one transaction: one time
			id := stacyvm.NewSandboxID()
			want[id] = true
			if _, err := tx.Sandboxes().Insert(ctx, stacyvm.Sandbox{ID: id, State: stacyvm.StateRunning, TenantID: "acme"}); err != nil {
				return err
			}
		}
		return nil
	})
	var seen []stacyvm.SandboxID
	filter := store.SandboxFilter{Tenant: "acme", Page: store.Page{Limit: 10}}
	for pages := 1; ; pages++ {
		var page []stacyvm.Sandbox
		r.view(func(ctx context.Context, tx store.Tx) (err error) {
			page, err = tx.Sandboxes().List(ctx, filter)
			return err
		})
		seen = append(seen, ids(page)...)
		if len(page) < filter.Limit {
			if pages != 5 {
				r.Errorf("%d pages", pages)
			}
			break
		}
		last := page[len(page)-1]
		filter.After = store.Cursor{CreatedAt: last.CreatedAt, ID: string(last.ID)}
		r.insert(func(s *stacyvm.Sandbox) { s.TenantID = "acme" })
	}
	for _, id := range seen {
		if !want[id] {
			r.Errorf("%s came twice, or is newer than the walk", id)
		}
		delete(want, id)
	}
	if len(want) != 0 {
		r.Errorf("%d rows were skipped", len(want))
	}
}

func sandboxExpiry(r *rig) {
	expired := func(filter store.SandboxFilter) (rows []stacyvm.Sandbox) {
		filter.Expired = true
		r.view(func(ctx context.Context, tx store.Tx) (err error) {
			rows, err = tx.Sandboxes().List(ctx, filter)
			return err
		})
		return rows
	}
	short := r.insert(func(s *stacyvm.Sandbox) { s.State, s.Spec.TTL = stacyvm.StateRunning, time.Minute })
	long := r.insert(nil)
	if rows := expired(store.SandboxFilter{}); len(rows) != 0 {
		r.Errorf("%v expired early", ids(rows))
	}
	r.clock.advance(time.Minute + time.Second)
	if rows := expired(store.SandboxFilter{Worker: "w"}); !slices.Equal(ids(rows), []stacyvm.SandboxID{short.ID}) {
		r.Errorf("expired: %v, want %s", ids(rows), short.ID)
	}
	if rows := expired(store.SandboxFilter{Worker: "other"}); len(rows) != 0 {
		r.Errorf("another worker's: %v", ids(rows))
	}
	r.update(func(ctx context.Context, tx store.Tx) error {
		row, err := tx.Sandboxes().Want(ctx, short.ID, store.Wish{TTL: time.Hour})
		now, _ := tx.Now(ctx)
		if row.ExpiresAt.Sub(now) != time.Hour || row.Desired != short.Desired {
			r.Errorf("extended to %s from %s, desired %s", row.ExpiresAt, now, row.Desired)
		}
		return err
	})
	if rows := expired(store.SandboxFilter{}); len(rows) != 0 {
		r.Errorf("extended and still expired: %v", ids(rows))
	}
	_, err := r.apply(long.ID, long.Fence, store.Change{State: stacyvm.StateDestroyed})
	r.must(err)
	r.clock.advance(3 * time.Hour)
	if rows := expired(store.SandboxFilter{}); !slices.Equal(ids(rows), []stacyvm.SandboxID{short.ID}) {
		r.Errorf("expired: %v; a tombstone does not expire", ids(rows))
	}
}

func sandboxFences(r *rig) {
	row := r.insert(func(s *stacyvm.Sandbox) { s.Fence = stacyvm.Fence{Incarnation: 2, Epoch: 5} })
	for _, fence := range []stacyvm.Fence{{}, {Incarnation: 2, Epoch: 4}, {Incarnation: 2, Epoch: 6}, {Incarnation: 1, Epoch: 5}, {Incarnation: 3, Epoch: 5}} {
		_, err := r.apply(row.ID, fence, store.Change{State: stacyvm.StateRunning, RuntimeID: "stolen"})
		r.want(stacyvm.CodeStaleEpoch, err)
	}
	if diff := cmp.Diff(row, r.row(row.ID)); diff != "" {
		r.Errorf("a fenced write changed the row:\n%s", diff)
	}
	_, err := r.apply(stacyvm.NewSandboxID(), row.Fence, store.Change{State: stacyvm.StateRunning})
	r.want(stacyvm.CodeNotFound, err)

	r.clock.advance(time.Second)
	changed, err := r.apply(row.ID, row.Fence, store.Change{State: stacyvm.StateRunning, Cause: &stacyvm.Cause{Reason: "r", Detail: "d"}, RuntimeID: "rt", Recovered: true, Unenforced: []stacyvm.Limit{"cpu"}})
	r.must(err)
	want := row
	want.State, want.RuntimeID, want.Recovered, want.Unenforced = stacyvm.StateRunning, "rt", true, []stacyvm.Limit{"cpu"}
	want.UpdatedAt, want.ExpiresAt = changed.UpdatedAt, row.ExpiresAt.Add(changed.UpdatedAt.Sub(row.CreatedAt))
	want.Cause = stacyvm.Cause{Reason: "r", Detail: "d", Since: changed.UpdatedAt} // nobody knew better
	if diff := cmp.Diff(want, changed); diff != "" || !changed.UpdatedAt.After(row.UpdatedAt) {
		r.Errorf("the change gave (updated %s, before %s):\n%s", changed.UpdatedAt, row.UpdatedAt, diff)
	}
	// Empty fields stay as they are; an empty cause is a value.
	changed, err = r.apply(row.ID, row.Fence, store.Change{Cause: &stacyvm.Cause{}})
	r.must(err)
	want.Cause, want.UpdatedAt = stacyvm.Cause{}, changed.UpdatedAt
	if diff := cmp.Diff(want, changed); diff != "" {
		r.Errorf("an empty change gave:\n%s", diff)
	}
	if diff := cmp.Diff(changed, r.row(row.ID)); diff != "" {
		r.Errorf("what Apply gave is not what is kept:\n%s", diff)
	}
}

// sandboxStates tries every pair of states.
func sandboxStates(r *rig) {
	for _, from := range stacyvm.States {
		for _, to := range stacyvm.States {
			row := r.insert(func(s *stacyvm.Sandbox) { s.State = from })
			_, err := r.apply(row.ID, row.Fence, store.Change{State: to})
			code, state := stacyvm.CodeConflict, from
			if from.CanBecome(to) {
				code, state = "", to
			}
			if stacyvm.CodeOf(err) != code || r.row(row.ID).State != state {
				r.Errorf("%s to %s: %v, and the row is %s", from, to, err, r.row(row.ID).State)
			}
		}
	}
	gone := r.insert(func(s *stacyvm.Sandbox) { s.State = stacyvm.StateDestroyed })
	_, err := r.apply(gone.ID, gone.Fence, store.Change{RuntimeID: "x"})
	r.want(stacyvm.CodeConflict, err)
}

func sandboxWishes(r *rig) {
	want := func(id stacyvm.SandboxID, wish store.Wish) (row stacyvm.Sandbox, err error) {
		err = r.try(func(ctx context.Context, tx store.Tx) (err error) {
			row, err = tx.Sandboxes().Want(ctx, id, wish)
			return err
		})
		return row, err
	}
	row := r.insert(nil)
	wished, err := want(row.ID, store.Wish{Desired: stacyvm.DesiredDestroyed})
	r.must(err)
	if wished.Desired != stacyvm.DesiredDestroyed || !wished.ExpiresAt.Equal(row.ExpiresAt) || wished.State != row.State {
		r.Errorf("after the wish: %+v", wished)
	}
	_, err = want(stacyvm.NewSandboxID(), store.Wish{Desired: stacyvm.DesiredDestroyed})
	r.want(stacyvm.CodeNotFound, err)
	gone := r.insert(func(s *stacyvm.Sandbox) { s.State = stacyvm.StateDestroyed })
	_, err = want(gone.ID, store.Wish{TTL: time.Hour})
	r.want(stacyvm.CodeNotFound, err)
}

// sandboxReadAlone: reads without a transaction give what those within one give.
func sandboxReadAlone(r *rig) {
	for i := range 40 {
		r.insert(func(s *stacyvm.Sandbox) {
			s.TenantID = []string{"", "acme"}[i%2]
			s.State = []stacyvm.State{stacyvm.StateRunning, stacyvm.StateError, stacyvm.StateDestroyed}[i%3]
			s.Spec.TTL = time.Duration(1+i%2) * time.Hour
			s.Metadata = map[string]string{"n": fmt.Sprint(i)}
			s.Unenforced = []stacyvm.Limit{"disk"}[:i%2]
			s.Recovered = i%2 == 0
		})
	}
	r.clock.advance(90 * time.Minute) // half of them have expired
	everything := store.SandboxFilter{States: []stacyvm.State{stacyvm.StateRunning, stacyvm.StateError, stacyvm.StateDestroyed}}
	var all []stacyvm.Sandbox
	for _, filter := range []store.SandboxFilter{
		everything, {}, {Tenant: "acme"}, {Tenant: "nobody"}, {Expired: true}, {Page: store.Page{Limit: 7, Skip: 3}},
	} {
		var want []stacyvm.Sandbox
		r.view(func(ctx context.Context, tx store.Tx) (err error) {
			want, err = tx.Sandboxes().List(ctx, filter)
			return err
		})
		got, err := r.Sandboxes().List(r.Context(), filter)
		r.must(err)
		if diff := cmp.Diff(want, got); diff != "" {
			r.Errorf("%+v:\n%s", filter, diff)
		}
		all = append(all, got...)
	}
	for _, want := range all[:40] {
		got, err := r.Sandboxes().Get(r.Context(), want.ID)
		r.must(err)
		if diff := cmp.Diff(want, got); diff != "" {
			r.Error(diff)
		}
	}
	_, err := r.Sandboxes().Get(r.Context(), stacyvm.NewSandboxID())
	r.want(stacyvm.CodeNotFound, err)
	ended, leave := context.WithCancel(r.Context())
	leave()
	_, err = r.Sandboxes().Get(ended, all[0].ID)
	r.want(stacyvm.CodeUnavailable, err)
}

// sandboxReadsAnswered: a read sees each write that was answered before it began, through either
// of two connections, and never an older one than a read before it.
func sandboxReadsAnswered(r *rig) {
	const writes = 150
	stores := []store.Store{r.Store, r.another()}
	row := r.insert(func(s *stacyvm.Sandbox) { s.State = stacyvm.StateRunning })
	var answered atomic.Int64
	var readers sync.WaitGroup
	for i := range 4 {
		readers.Go(func() {
			for last := int64(0); last < writes; {
				least := max(last, answered.Load())
				var got stacyvm.Sandbox
				var err error
				if from := stores[i%2].Sandboxes(); i < 2 {
					got, err = from.Get(r.Context(), row.ID)
				} else {
					var rows []stacyvm.Sandbox
					rows, err = from.List(r.Context(), store.SandboxFilter{})
					got = append(rows, got)[0]
				}
				last, _ = strconv.ParseInt(got.RuntimeID, 10, 64)
				if err != nil || last < least {
					r.Errorf("reader %d found write %d after %d: %v", i, last, least, err)
					return
				}
			}
		})
	}
	for i := range writes {
		r.must(stores[i%2].Update(r.Context(), func(tx store.Tx) error {
			_, err := tx.Sandboxes().Apply(r.Context(), row.ID, row.Fence, store.Change{RuntimeID: strconv.Itoa(i + 1)})
			return err
		}))
		answered.Store(int64(i + 1))
	}
	readers.Wait()
}

// sandboxVersions: each change of a row under one fence moves its time of change on, also while
// the clock goes back, and each change is seen by the reads that follow it.
func sandboxVersions(r *rig) {
	row := r.insert(func(s *stacyvm.Sandbox) { s.Spec.TTL = time.Second })
	r.insert(nil)
	r.insert(nil)
	apply := func(change store.Change) func(context.Context, store.Tx) error {
		return func(ctx context.Context, tx store.Tx) error {
			_, err := tx.Sandboxes().Apply(ctx, row.ID, row.Fence, change)
			return err
		}
	}
	update := func(write func(context.Context, store.Tx) error) func() {
		return func() { r.update(write) }
	}
	for i, change := range []func(){
		update(func(ctx context.Context, tx store.Tx) error {
			_, err := tx.Sandboxes().Start(ctx, []store.Started{{ID: row.ID, Fence: row.Fence}})
			return err
		}),
		update(apply(store.Change{State: stacyvm.StateUnhealthy})),
		update(apply(store.Change{RuntimeID: "a"})),
		update(apply(store.Change{RuntimeID: "b"})),
		update(func(ctx context.Context, tx store.Tx) error {
			_, err := tx.Sandboxes().Want(ctx, row.ID, store.Wish{TTL: time.Minute})
			return err
		}),
		update(func(ctx context.Context, tx store.Tx) error {
			_, err := tx.Leases().Acquire(ctx, store.LeaseRequest{
				Resource: string(row.ID), Type: "sandbox", Holder: "other", Session: "s", TTL: time.Minute,
			})
			return err
		}),
		func() { _, err := store.Raise(r.Context(), r.Store, 0); r.must(err) },
		func() { _, err := store.RestoreGraceUntil(r.Context(), r.Store, "w", "s"); r.must(err) },
	} {
		r.clock.advance(-time.Second)
		before, err := r.Sandboxes().Get(r.Context(), row.ID)
		r.must(err)
		change()
		found, err := r.Sandboxes().Get(r.Context(), row.ID)
		r.must(err)
		rows, err := r.Sandboxes().List(r.Context(), store.SandboxFilter{})
		r.must(err)
		after := rows[len(rows)-1]
		diff := cmp.Diff(r.row(row.ID), after) + cmp.Diff(found, after)
		if diff != "" || !after.UpdatedAt.After(before.UpdatedAt) && after.Fence == before.Fence {
			r.Errorf("change %d, of %s after %s: %s", i, after.UpdatedAt, before.UpdatedAt, diff)
		}
	}
}
