package audit

import (
	"context"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

const (
	// replayReads is how many pages of the past are read at a time, for all subscribers together;
	// recentReads is how many of what has just happened, so that whoever replays delays nobody who
	// follows.
	replayReads = 1
	recentReads = 2
	// pageWithin bounds one read, which may be for many.
	pageWithin = 10 * time.Second
)

// Feed reads events for all subscribers: a few pages at a time, and one for all who wait for the
// same. However many subscribers there are and however slowly they read, they leave the store to
// others. Those who follow share the newest events, wherever each of them is.
type Feed struct {
	store                  store.Store
	replay, recent, newest chan struct{} // slots

	mu      sync.Mutex
	waiting map[pageKey]*pageRead // that have not begun: whoever joins one learns of all that was committed before
	tail    tail
}

// pageKey names a read.
type pageKey struct {
	tenant  string
	after   int64
	present bool // the span alone, with all that was committed before
	replay  bool // in the line of replays
	tail    bool // what the tail lacks, and no page
}

// pageRead is one read.
type pageRead struct {
	readers int           // who wait for it
	done    chan struct{} // closed when the rest is there
	span    store.EventSpan
	page    []*Entry
	err     error
}

// NewFeed makes the feed of a store; it holds nothing that must be closed.
func NewFeed(s store.Store) *Feed {
	return &Feed{
		store:   s,
		replay:  make(chan struct{}, replayReads),
		recent:  make(chan struct{}, recentReads),
		newest:  make(chan struct{}, 1),
		waiting: map[pageKey]*pageRead{},
	}
}

// read waits for its turn and gives a page. CodeUnavailable: the store does not answer, or ctx
// ended.
func (f *Feed) read(ctx context.Context, key pageKey) (*pageRead, error) {
	f.mu.Lock()
	r := f.waiting[key]
	if r == nil {
		r = &pageRead{done: make(chan struct{})}
		f.waiting[key] = r
		go f.run(key, r)
	}
	r.readers++
	f.mu.Unlock()
	select {
	case <-r.done:
		return r, r.err
	case <-ctx.Done():
		f.mu.Lock()
		r.readers--
		f.mu.Unlock()
		return nil, stacyvm.Wrap(stacyvm.CodeUnavailable, ctx.Err(), "the caller stopped waiting")
	}
}

// run makes one read, unless nobody waits for it any more when its turn comes.
func (f *Feed) run(key pageKey, r *pageRead) {
	defer close(r.done)
	slots := f.recent
	switch {
	case key.replay:
		slots = f.replay
	case key.tail:
		slots = f.newest
	}
	slots <- struct{}{}
	defer func() { <-slots }()
	f.mu.Lock()
	delete(f.waiting, key)
	wanted := r.readers > 0
	f.mu.Unlock()
	if !wanted {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), pageWithin)
	defer cancel()
	switch {
	case key.present:
		r.span, r.err = f.numbered(ctx)
		return
	case key.tail:
		r.err = f.extendTail(ctx)
		return
	}
	r.err = f.store.View(ctx, func(tx store.Tx) (err error) {
		if r.span, err = tx.Events().Span(ctx); err != nil {
			return err
		}
		events, err := tx.Events().List(ctx, store.EventFilter{Tenant: key.tenant, After: key.after, Limit: eventPage})
		r.page = entriesOf(events) // anew each time that the store tries
		return err
	})
}

// Entry is an event as subscribers are given it. They share it: it is not to be changed.
type Entry struct {
	stacyvm.Event
	once sync.Once
	text []byte
	err  error
}

func entriesOf(events []stacyvm.Event) []*Entry {
	entries := make([]*Entry, len(events))
	for i, event := range events {
		entries[i] = &Entry{Event: event}
	}
	return entries
}

// Text is the event in a transport's form, made once for all who read it. There is one form: every
// caller passes the same encode.
func (e *Entry) Text(encode func(stacyvm.Event) ([]byte, error)) ([]byte, error) {
	e.once.Do(func() { e.text, e.err = encode(e.Event) })
	return e.text, e.err
}

// numbered gives the span of all that was committed before: what has no number yet, for want of
// readers, gets one first. Else who does not stay would miss it, and who wants only what comes
// would be told of it.
func (f *Feed) numbered(ctx context.Context) (span store.EventSpan, err error) {
	look := func() error {
		return f.store.View(ctx, func(tx store.Tx) error {
			span, err = tx.Events().Span(ctx)
			return err
		})
	}
	if err = look(); err != nil || !span.Waiting {
		return span, err
	}
	for more := true; more; {
		err = f.store.Update(ctx, func(tx store.Tx) error {
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
