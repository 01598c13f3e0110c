package audit

import (
	"context"
	"slices"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// tail is the newest events, all that came after one number and up to another, of every tenant.
type tail struct {
	after, last int64
	entries     []*Entry // at most nearby
}

// page gives what follows a place, and the place behind that. ok is false when some of it is not in
// the tail.
func (t tail) page(tenant string, place int64) (page []*Entry, behind int64, ok bool) {
	if place < t.after {
		return nil, 0, false
	}
	first, _ := slices.BinarySearchFunc(t.entries, place+1, func(e *Entry, number int64) int {
		return int(e.Number - number)
	})
	for _, e := range t.entries[first:] {
		if tenant != "" && e.TenantID != tenant {
			continue
		}
		if page = append(page, e); len(page) == eventPage {
			return page, e.Number, true
		}
	}
	return page, max(t.last, place), true
}

// follow gives the tail with all that was committed before.
func (f *Feed) follow(ctx context.Context) (tail, error) {
	if _, err := f.read(ctx, pageKey{tail: true}); err != nil {
		return tail{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.tail, nil
}

// extendTail reads what the tail lacks. One that is far behind, or ahead of a database that went
// back, begins anew. So does one of an earlier incarnation, which may hold events that were lost:
// store.Raise leaves out far more numbers than nearby.
func (f *Feed) extendTail(ctx context.Context) error {
	f.mu.Lock()
	known := f.tail
	f.mu.Unlock()
	var next tail
	err := f.store.View(ctx, func(tx store.Tx) error {
		span, err := tx.Events().Span(ctx)
		if err != nil {
			return err
		}
		next = known
		if span.Last < known.last || span.Last-known.last > nearby || span.First > known.last+1 {
			from := max(span.First-1, span.Last-eventPage)
			next = tail{after: from, last: from}
		}
		entries := slices.Clone(next.entries) // others read the ones before
		for next.last < span.Last {
			var events []stacyvm.Event
			if events, err = tx.Events().List(ctx, store.EventFilter{After: next.last, Limit: eventPage}); err != nil {
				return err
			}
			entries = append(entries, entriesOf(events)...)
			next.last = span.Last
			if len(events) == eventPage {
				next.last = events[len(events)-1].Number
			}
		}
		if more := len(entries) - nearby; more > 0 {
			next.after = entries[more-1].Number
			entries = slices.Clone(entries[more:])
		}
		next.entries = entries
		return nil
	})
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tail = next
	return nil
}
