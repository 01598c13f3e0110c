package audit_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/audit"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// gatedStore counts its reads, which wait while its gate is closed.
type gatedStore struct {
	store.Store
	now, all atomic.Int32
	gate     atomic.Pointer[chan struct{}]
}

// close closes the gate; open opens it again.
func (s *gatedStore) close() (open func()) {
	gate := make(chan struct{})
	s.gate.Store(&gate)
	return func() { close(gate) }
}

func (s *gatedStore) View(ctx context.Context, read func(store.Tx) error) error {
	s.all.Add(1)
	s.now.Add(1)
	defer s.now.Add(-1)
	if gate := s.gate.Load(); gate != nil {
		<-*gate
	}
	return s.Store.View(ctx, read)
}

// othersReads is how many reads the service may make beside.
const othersReads = 5

// TestReplaysLeaveTheStoreToOthers: hundreds of readers of the past, each of which wants pages of
// its own, make a few reads at a time.
func TestReplaysLeaveTheStoreToOthers(t *testing.T) {
	testneed.Patience(t)
	const readers, events = 300, 450
	onGatedStore(t, func(t *testing.T, r *rig, gated *gatedStore) {
		tellOf(t, gated.Store, "", 0, events)
		open := gated.close()
		var all sync.WaitGroup
		for n := range readers {
			all.Go(func() {
				b, err := r.Events(r.Ctx, int64(n))
				if err != nil {
					t.Error(err)
					return
				}
				defer b.Close()
				for place := n; place < events; place++ {
					if event, err := b.Next(r.Ctx); err != nil || event.Data["n"] != float64(place) {
						t.Errorf("reader %d at %d: %+v, %v", n, place, event, err)
						return
					}
				}
			})
		}
		synctest.Wait()
		if now := gated.now.Load(); now > 3+othersReads {
			t.Errorf("%d reads at a time", now)
		}
		open()
		all.Wait()
	})
}

// TestWhoReplaysHasNotCaughtUp: a reader whose next page is not its last takes no slot of those who
// follow, however little it is behind.
func TestWhoReplaysHasNotCaughtUp(t *testing.T) {
	const readers, events = 60, 450
	onGatedStore(t, func(t *testing.T, r *rig, gated *gatedStore) {
		tellOf(t, gated.Store, "", 0, events)
		var all [readers]*audit.Subscription
		for n := range all {
			all[n] = subscribe(t, r.Ctx, r.Service, int64(n))
			for range 100 { // a page
				if _, err := all[n].Next(r.Ctx); err != nil {
					t.Fatal(err)
				}
			}
		}
		open := gated.close()
		synctest.Wait()
		others := gated.now.Load()
		var next sync.WaitGroup
		for _, b := range all {
			next.Go(func() {
				if _, err := b.Next(r.Ctx); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if now := gated.now.Load() - others; now != 1 {
			t.Errorf("%d reads at a time", now)
		}
		open()
		next.Wait()
	})
}

// TestFollowersShareReads: hundreds who wait for the same event make a few reads.
func TestFollowersShareReads(t *testing.T) {
	const followers = 300
	onGatedStore(t, func(t *testing.T, r *rig, gated *gatedStore) {
		var together [followers]*audit.Subscription
		for n := range together {
			together[n] = subscribe(t, r.Ctx, r.Service, audit.Latest)
		}
		tellOf(t, gated.Store, "", 0, 1)
		open := gated.close()
		before := gated.all.Load()
		var all sync.WaitGroup
		for _, b := range together {
			all.Go(func() {
				if event, err := b.Next(r.Ctx); err != nil || event.Data["n"] != 0.0 {
					t.Errorf("%+v, %v", event, err)
				}
			})
		}
		synctest.Wait()
		open()
		all.Wait()
		if n := gated.all.Load() - before; n > 5+othersReads {
			t.Errorf("%d reads for %d who follow", n, followers)
		}
	})
}

// TestAFollowerWaitsForNoReplay: one who came back to the place where a follower is, and stands in
// the line of replays, does not take the follower into it.
func TestAFollowerWaitsForNoReplay(t *testing.T) {
	const events = 150
	onGatedStore(t, func(t *testing.T, r *rig, gated *gatedStore) {
		tellOf(t, gated.Store, "", 0, events)
		follower := subscribe(t, r.Ctx, r.Service, audit.Latest)
		slow := subscribe(t, r.Ctx, r.Service, 0)
		back := subscribe(t, r.Ctx, r.Service, follower.Place())
		open := gated.close()
		var replays sync.WaitGroup
		replays.Go(func() { _, _ = slow.Now(r.Ctx) })
		synctest.Wait()
		gated.gate.Store(nil) // for all but that one read
		replays.Go(func() { _, _ = back.Now(r.Ctx) })
		synctest.Wait()
		ctx, cancel := context.WithTimeout(r.Ctx, time.Second)
		defer cancel()
		if _, err := follower.Now(ctx); err != nil {
			t.Errorf("who follows waits for a replay: %v", err)
		}
		open()
		replays.Wait()
	})
}

// TestABurstMakesNoReplay: whoever follows and is behind by some pages does not wait in the line
// of replays.
func TestABurstMakesNoReplay(t *testing.T) {
	onGatedStore(t, func(t *testing.T, r *rig, gated *gatedStore) {
		follower := subscribe(t, r.Ctx, r.Service, audit.Latest)
		tellOf(t, gated.Store, "", 0, 250)
		take(t, follower, 1)
		slow := subscribe(t, r.Ctx, r.Service, 0)
		open := gated.close()
		var replays sync.WaitGroup
		replays.Go(func() { _, _ = slow.Now(r.Ctx) })
		synctest.Wait()
		gated.gate.Store(nil) // for all but that one read
		take(t, follower, 249)
		open()
		replays.Wait()
	})
}

// TestFollowersGoOnTogether: while events come all the time, followers go on at the same moments,
// with one read for all of them, and each event is put into words once.
func TestFollowersGoOnTogether(t *testing.T) {
	const followers, events = 16, 200
	onGatedStore(t, func(t *testing.T, r *rig, gated *gatedStore) {
		before := gated.all.Load()
		var worded atomic.Int32
		encode := func(stacyvm.Event) ([]byte, error) { worded.Add(1); return []byte("words"), nil }
		var all sync.WaitGroup
		for n := range followers {
			b := subscribe(t, r.Ctx, r.Service, audit.Latest)
			all.Go(func() {
				time.Sleep(time.Duration(n) * 600 * time.Microsecond) // each comes at a time of its own
				for range events {
					event, err := b.Next(r.Ctx)
					if err != nil {
						t.Error(err)
						return
					}
					if text, err := event.Text(encode); string(text) != "words" || err != nil {
						t.Errorf("%q, %v", text, err)
					}
				}
			})
		}
		for n := range events {
			tellOf(t, gated.Store, "", n, n+1)
			time.Sleep(time.Millisecond)
		}
		all.Wait()
		if n := gated.all.Load() - before; n > 400 { // 707 when each goes on by itself
			t.Errorf("%d reads for %d who follow", n, followers)
		}
		if n := worded.Load(); n != events {
			t.Errorf("%d events were put into words %d times", events, n)
		}
	})
}

// onGatedStore runs a test in a bubble, in which it is known when everybody waits.
func onGatedStore(t *testing.T, test func(t *testing.T, r *rig, gated *gatedStore)) {
	synctest.Test(t, func(t *testing.T) {
		gated := &gatedStore{Store: controltest.OpenSQLite(t)}
		test(t, &rig{controltest.NewRigOn(t, gated.Store, func(c *control.Config) { c.Store = gated })}, gated)
	})
}
