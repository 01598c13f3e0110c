package audit

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// Latest is the place of a subscriber that wants only what happens from now on.
	Latest int64 = -1

	// eventPage is all that is kept in memory for a subscriber.
	eventPage = 100
	// nearby is how many numbers a subscriber may be behind and still counts as one who follows: a
	// burst does not put it in the line of replays.
	nearby = 10 * eventPage
	// gather is the time between two moments at which subscribers that were woken go on, so that a
	// busy store is not asked at each commit, and one read serves all of them.
	gather = 10 * time.Millisecond
)

// Subscription tells one reader what happens, in order and at least once. It keeps no queue: a
// slow reader reads later, from the store. It is for one goroutine at a time.
type Subscription struct {
	feed   *Feed
	tenant string
	woken  <-chan struct{}
	stop   context.CancelFunc
	recent bool // it has read nearly up to what there was

	place  int64    // the reader has everything up to here
	page   []*Entry // shared with other readers
	behind int64    // the place after page
	missed bool     // the reader must be told of a gap first
}

// Subscribe gives what happens after a place: the number of the last event that was seen, 0 for
// everything that is kept, or Latest. With a tenant it gives that tenant's events only. Close
// ends the subscription, and so does the end of ctx.
func (f *Feed) Subscribe(ctx context.Context, tenant string, after int64) (*Subscription, error) {
	watching, stop := context.WithCancel(ctx)
	b := &Subscription{feed: f, tenant: tenant, woken: f.store.Watch(watching), stop: stop, recent: after == Latest}
	present, err := f.read(ctx, pageKey{present: true})
	if err != nil {
		stop()
		return nil, err
	}
	span := present.span
	b.place = after
	switch {
	case after == Latest:
		b.place = span.Last
	case after > span.Last: // of a database that this one does not continue
		b.place, b.missed = span.Last, true
	}
	b.behind = b.place
	return b, nil
}

// Close ends the subscription.
func (b *Subscription) Close() { b.stop() }

// Place is the number that a reader that comes back continues after. Events of others count too.
func (b *Subscription) Place() int64 { return b.place }

// Held is how many events Now gives without asking the store.
func (b *Subscription) Held() int { return len(b.page) }

// Next waits for the next event. When events are no longer kept that the reader has not seen,
// it gives one of KindMissed in their place. CodeUnavailable: the store does not answer, or ctx
// ended; Next may be called again.
func (b *Subscription) Next(ctx context.Context) (*Entry, error) {
	for {
		if event, err := b.Now(ctx); err != nil || event != nil {
			return event, err
		}
		if err := b.wait(ctx); err != nil {
			return nil, err
		}
	}
}

// Now gives what Next would give without waiting; nil when there is nothing.
func (b *Subscription) Now(ctx context.Context) (*Entry, error) {
	if event := b.take(); event != nil {
		return event, nil
	}
	b.place = b.behind
	if err := b.read(ctx); err != nil {
		return nil, err
	}
	event := b.take()
	if event == nil {
		b.place = b.behind
	}
	return event, nil
}

// take gives what is in memory; nil when that is nothing.
func (b *Subscription) take() *Entry {
	switch {
	case b.missed:
		b.missed = false
		return &Entry{Event: stacyvm.Event{Number: b.place, Kind: stacyvm.KindMissed, CreatedAt: time.Now().UTC()}}
	case len(b.page) > 0:
		event := b.page[0]
		b.page = b.page[1:]
		b.place = event.Number
		return event
	}
	return nil
}

// read gets the next page, and how far it reaches.
func (b *Subscription) read(ctx context.Context) error {
	if b.recent {
		newest, err := b.feed.follow(ctx)
		if err != nil {
			return err
		}
		if page, behind, ok := newest.page(b.tenant, b.place); ok {
			b.page, b.behind = page, behind
			return nil
		}
	}
	r, err := b.feed.read(ctx, pageKey{tenant: b.tenant, after: b.place, replay: !b.recent})
	if err != nil {
		return err
	}
	if b.place < r.span.First-1 {
		b.place, b.missed = r.span.First-1, true
	}
	b.page, b.behind = r.page, max(r.span.Last, b.place)
	if len(r.page) == eventPage {
		b.behind = r.page[len(r.page)-1].Number
	}
	// Who has caught up stays a follower through a burst. Who comes back after a while replays until then.
	b.recent = r.span.Last <= b.behind || b.recent && r.span.Last-b.behind <= nearby
	return nil
}

// wait returns when there may be more.
func (b *Subscription) wait(ctx context.Context) error {
	select {
	case <-b.woken:
		now := time.Now()
		return retry.Sleep(ctx, now.Truncate(gather).Add(gather).Sub(now))
	case <-ctx.Done():
		return stacyvm.Wrap(stacyvm.CodeUnavailable, ctx.Err(), "the caller stopped waiting")
	}
}
