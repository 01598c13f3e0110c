package audit

import (
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

func emptyStore(t *testing.T) store.Store {
	s, err := store.NewSQLiteStore(t.Context(), filepath.Join(t.TempDir(), "db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func appendEvents(t *testing.T, s store.Store, events []stacyvm.Event) {
	t.Helper()
	err := s.Update(t.Context(), func(tx store.Tx) error { return tx.Events().Append(t.Context(), events) })
	if err != nil {
		t.Fatal(err)
	}
}

// TestTail: pages of the tail are those that the store gives, wherever a follower is and whatever
// the tail has been through; what it does not hold it does not give.
func TestTail(t *testing.T) {
	s := emptyStore(t)
	f := NewFeed(s)
	written := 0
	for _, more := range []int{0, 1, 30, eventPage, 2*eventPage + 1, nearby, nearby + 1, 5 * nearby, 7} {
		for ; more > 0; more -= eventPage {
			var events []stacyvm.Event
			for range min(more, eventPage) {
				events = append(events, stacyvm.Event{Kind: stacyvm.KindExecStarted, TenantID: fmt.Sprint("t", written%3), Data: map[string]any{}})
				written++
			}
			appendEvents(t, s, events)
		}
		newest, err := f.follow(t.Context())
		if err != nil || len(newest.entries) > nearby || int(newest.last) != written {
			t.Fatalf("after %d events: %d up to %d, %v", written, len(newest.entries), newest.last, err)
		}
		places := []int64{max(0, newest.after-1), newest.after, newest.last}
		for place := int64(0); place <= newest.last; place += 67 {
			places = append(places, place)
		}
		for _, place := range places {
			for _, tenant := range []string{"", "t1"} {
				page, behind, ok := newest.page(tenant, place)
				if ok != (place >= newest.after) {
					t.Fatalf("from %d, with all after %d: %v", place, newest.after, ok)
				}
				if ok {
					wantPage(t, s, tenant, place, page, behind, newest.last)
				}
			}
		}
	}
}

func wantPage(t *testing.T, s store.Store, tenant string, place int64, page []*Entry, behind, last int64) {
	t.Helper()
	var want []stacyvm.Event
	err := s.View(t.Context(), func(tx store.Tx) (err error) {
		want, err = tx.Events().List(t.Context(), store.EventFilter{Tenant: tenant, After: place, Limit: eventPage})
		return err
	})
	if err != nil || len(page) != len(want) {
		t.Fatalf("%q from %d: %d events, want %d, %v", tenant, place, len(page), len(want), err)
	}
	for i, e := range page {
		if e.Number != want[i].Number || e.TenantID != want[i].TenantID {
			t.Fatalf("%q from %d: event %d is %+v, want %+v", tenant, place, i, e.Event, want[i])
		}
	}
	if len(page) == eventPage {
		last = page[eventPage-1].Number
	}
	if behind != last {
		t.Errorf("%q from %d: it reaches to %d, want %d", tenant, place, behind, last)
	}
}

// TestTailOfAnEarlierDatabase: a tail that is ahead of its database begins anew.
func TestTailOfAnEarlierDatabase(t *testing.T) {
	s := emptyStore(t)
	f := NewFeed(s)
	f.tail = tail{after: 3, last: 900, entries: entriesOf([]stacyvm.Event{{Number: 900}})}
	appendEvents(t, s, []stacyvm.Event{{Kind: stacyvm.KindExecStarted}})
	newest, err := f.follow(t.Context())
	if err != nil || newest.last != 1 || len(newest.entries) != 1 || newest.entries[0].Kind != stacyvm.KindExecStarted {
		t.Errorf("%+v, %v", newest, err)
	}
}

// TestTailAfterAFailover: a promoted database that lost events is another incarnation, whose numbers
// begin far above. The tail gives nothing of what was lost, however many events came before it
// looks.
func TestTailAfterAFailover(t *testing.T) {
	of := func(kind stacyvm.Kind, n int) []stacyvm.Event {
		events := make([]stacyvm.Event, n)
		for i := range events {
			events[i].Kind = kind
		}
		return events
	}
	before, promoted := emptyStore(t), emptyStore(t)
	for _, s := range []store.Store{before, promoted} {
		appendEvents(t, s, of(stacyvm.KindExecStarted, 10))
	}
	f := NewFeed(before)
	appendEvents(t, before, of(stacyvm.KindExecCompleted, 5)) // lost
	if newest, err := f.follow(t.Context()); err != nil || len(newest.entries) != 15 {
		t.Fatalf("%d events, %v", len(newest.entries), err)
	}
	if _, err := store.Raise(t.Context(), promoted, 0); err != nil { // as whoever meets the new timeline does
		t.Fatal(err)
	}
	appendEvents(t, promoted, of(stacyvm.KindExecStarted, 7))
	f.store = promoted
	newest, err := f.follow(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range newest.entries {
		if e.Kind == stacyvm.KindExecCompleted {
			t.Errorf("gives event %d, which was lost", e.Number)
		}
	}
	if page, _, ok := newest.page("", newest.last-1); !ok || len(page) != 1 {
		t.Errorf("the last of %d: %d events, %v", newest.last, len(page), ok)
	}
}
