package audit

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

const (
	// Latest is the place of a subscriber that wants only what happens from now on.
	Latest int64 = -1

	// eventPage is all that is kept in memory for a subscriber.
	eventPage = 100
	// gather is how long a subscriber that was woken waits for more, so that a busy store is not
	// asked at each commit.
	gather = 10 * time.Millisecond
)

// Subscription tells one reader what happens, in order and at least once. It keeps no queue: a
// slow reader reads later, from the store. It is for one goroutine at a time.
type Subscription struct {
	store  store.Store
	tenant string
	woken  <-chan struct{}
	stop   context.CancelFunc

	place  int64 // the reader has everything up to here
	page   []stacyvm.Notice
	behind int64 // the place after page
	missed bool  // the reader must be told of a gap first
}

// Subscribe gives what happens after a place: the number of the last notice that was seen, 0 for
// everything that is kept, or Latest. With a tenant it gives that tenant's notices only. Close
// ends the subscription, and so does the end of ctx.
func Subscribe(ctx context.Context, s store.Store, tenant string, after int64) (*Subscription, error) {
	watching, stop := context.WithCancel(ctx)
	b := &Subscription{store: s, tenant: tenant, woken: s.Watch(watching), stop: stop}
	span, err := b.present(ctx)
	if err != nil {
		stop()
		return nil, err
	}
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

// Place is the number that a reader that comes back continues after. Notices of others count too.
func (b *Subscription) Place() int64 { return b.place }

// Next waits for the next notice. When notices are no longer kept that the reader has not seen,
// it gives one of KindMissed in their place. CodeUnavailable: the store does not answer, or ctx
// ended; Next may be called again.
func (b *Subscription) Next(ctx context.Context) (stacyvm.Notice, error) {
	for {
		notice, ok, err := b.Now(ctx)
		if err != nil || ok {
			return notice, err
		}
		if err := b.wait(ctx); err != nil {
			return stacyvm.Notice{}, err
		}
	}
}

// Now gives what Next would give without waiting; ok is false when there is nothing.
func (b *Subscription) Now(ctx context.Context) (notice stacyvm.Notice, ok bool, err error) {
	if notice, ok = b.take(); ok {
		return notice, true, nil
	}
	b.place = b.behind
	if err := b.read(ctx); err != nil {
		return notice, false, err
	}
	if notice, ok = b.take(); !ok {
		b.place = b.behind
	}
	return notice, ok, nil
}

// take gives what is in memory.
func (b *Subscription) take() (notice stacyvm.Notice, ok bool) {
	switch {
	case b.missed:
		b.missed = false
		return stacyvm.Notice{Number: b.place, Kind: stacyvm.KindMissed, CreatedAt: time.Now().UTC()}, true
	case len(b.page) > 0:
		notice, b.page = b.page[0], b.page[1:]
		b.place = notice.Number
		return notice, true
	}
	return notice, false
}

// read gets the next page, and how far it reaches.
func (b *Subscription) read(ctx context.Context) error {
	var span store.EventSpan
	var page []stacyvm.Notice
	err := b.store.View(ctx, func(tx store.Tx) (err error) {
		if span, err = tx.Events().Span(ctx); err != nil {
			return err
		}
		page, err = tx.Events().List(ctx, store.EventFilter{Tenant: b.tenant, After: b.place, Limit: eventPage})
		return err
	})
	if err != nil {
		return err
	}
	if b.place < span.First-1 {
		b.place, b.missed = span.First-1, true
	}
	b.page, b.behind = page, max(span.Last, b.place)
	if len(page) == eventPage {
		b.behind = page[len(page)-1].Number
	}
	return nil
}

// present gives the span of all that was committed before. What has no number yet, because nobody
// has read it, gets one first: else a reader that does not stay would miss it, and a reader that
// wants only what comes would get it.
func (b *Subscription) present(ctx context.Context) (span store.EventSpan, err error) {
	look := func() error {
		return b.store.View(ctx, func(tx store.Tx) error {
			span, err = tx.Events().Span(ctx)
			return err
		})
	}
	if err = look(); err != nil || !span.Waiting {
		return span, err
	}
	for more := true; more; {
		err = b.store.Update(ctx, func(tx store.Tx) error {
			more, err = tx.Events().Number(ctx)
			return err
		})
		if err != nil {
			return span, err
		}
	}
	err = look()
	return span, err
}

// wait returns when there may be more.
func (b *Subscription) wait(ctx context.Context) error {
	select {
	case <-b.woken:
		return retry.Sleep(ctx, gather)
	case <-ctx.Done():
		return stacyvm.Wrap(stacyvm.CodeUnavailable, ctx.Err(), "the caller stopped waiting")
	}
}
