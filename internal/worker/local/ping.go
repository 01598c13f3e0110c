package local

import (
	"cmp"
	"context"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Guests are asked for a sign of life apart from everything else, so that those who give none hold
// up nobody: the inventory tells what is known. A guest that answered last time is asked quickly,
// and one that did not answer quickly is asked again with patience, beside the others, less and
// less often.

// pings says how guests are asked.
type pings struct {
	quick, patient pingClass
	// at most this after an answer, and this after the first silence; it doubles with each further
	// one
	every time.Duration
	most  time.Duration // up to this
}

// pingClass is how a class of guests is asked.
type pingClass struct {
	within time.Duration // one answer
	limit  int           // guests at once
}

var usualPings = pings{
	quick: pingClass{time.Second, 32}, patient: pingClass{5 * time.Second, 128},
	every: 10 * time.Second, most: 5 * time.Minute,
}

const (
	// pingTick is the pause between two looks at who is due.
	pingTick = 500 * time.Millisecond
	// firstAsked is how long an inventory waits for the first answers after the start.
	firstAsked = 2 * time.Second
)

// health is what is known of a guest; an entry's mu guards it.
type health struct {
	answered time.Time // when it answered last; zero: not since this process began
	checked  time.Time // when it was last found out whether it answers; zero: not yet
	misses   int       // times in a row that it did not
	slow     bool      // it did not answer quickly: it is asked with patience
	due      time.Time // it is not asked before
	asking   bool
}

// answered notes a sign of life. Each guest has a place of its own in the time between two
// questions: those that were created together would be asked together for ever.
func (w *Worker) answered(id stacyvm.SandboxID) health {
	now := time.Now()
	hash := fnv.New64a()
	_, _ = hash.Write([]byte(id)) // never fails
	place := time.Duration(hash.Sum64() % uint64(w.pings.every))
	passed := (now.Sub(w.opened) + place) % w.pings.every
	return health{answered: now, checked: now, due: now.Add(w.pings.every - passed)}
}

// keepAsking keeps a question under way from being asked twice; b.mu is held.
func (w *Worker) keepAsking(b *entry, now health) health {
	now.asking = b.health.asking
	return now
}

// Run asks the guests for signs of life until ctx or the worker ends.
func (w *Worker) Run(ctx context.Context) error {
	if err := w.enter(); err != nil {
		return err
	}
	defer w.work.Done()
	ctx, cancel := w.whileOpen(ctx)
	defer cancel()
	first := make(chan struct{})
	w.mu.Lock()
	w.first = first
	w.mu.Unlock()
	var classes sync.WaitGroup
	classes.Go(func() {
		w.ask(ctx, false)
		close(first)
		w.askOn(ctx, false)
	})
	classes.Go(func() { w.askOn(ctx, true) })
	classes.Wait()
	return nil
}

// Ask asks each guest that is due once and returns when all have answered, or have not in time.
// Run does so all the time.
func (w *Worker) Ask(ctx context.Context) {
	w.ask(ctx, false)
	w.ask(ctx, true)
}

// askOn asks the guests of one class, again and again.
func (w *Worker) askOn(ctx context.Context, patient bool) {
	tick := time.NewTicker(pingTick)
	defer tick.Stop()
	for {
		w.ask(ctx, patient)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// ask asks the guests of one class that are due, those first that have been for longest.
func (w *Worker) ask(ctx context.Context, patient bool) {
	class := w.pings.quick
	if patient {
		class = w.pings.patient
	}
	var asking errgroup.Group
	asking.SetLimit(class.limit)
	for _, b := range w.due(patient) {
		asking.Go(func() error { w.askOne(ctx, b, class.within, patient); return nil })
	}
	_ = asking.Wait() // they note it with the entry
}

// due picks the guests of one class that shall be asked now.
func (w *Worker) due(patient bool) []*entry {
	type one struct {
		entry *entry
		due   time.Time
	}
	var found []one
	now := time.Now()
	for _, b := range w.all() {
		b.mu.Lock()
		busy := b.job != nil && b.job.kind != kindAttach
		if b.record != nil && !busy && !b.health.asking && b.health.slow == patient && !now.Before(b.health.due) {
			b.health.asking = true
			found = append(found, one{b, b.health.due})
		}
		b.mu.Unlock()
	}
	slices.SortFunc(found, func(a, b one) int { return cmp.Compare(a.due.UnixNano(), b.due.UnixNano()) })
	entries := make([]*entry, len(found))
	for i, f := range found {
		entries[i] = f.entry
	}
	return entries
}

// askOne asks one guest and notes what came of it. No quick answer is no verdict yet.
func (w *Worker) askOne(ctx context.Context, b *entry, within time.Duration, patient bool) {
	began := time.Now()
	asked, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	l, err := w.connected(asked, b)
	if err == nil {
		err = l.ping(asked)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.health.asking = false
	switch h := &b.health; {
	case err == nil:
		b.health = w.answered(b.id)
	// nobody waited for the answer, or a new connection was made meanwhile
	case ctx.Err() != nil, h.checked.After(began):
	case !patient:
		h.slow = true
	default:
		w.log.Debug("a guest does not answer", "sandbox", b.id, "times", h.misses+1, "error", err)
		now := time.Now()
		h.checked, h.due = now, now.Add(min(w.pings.every<<min(h.misses, 16), w.pings.most))
		h.misses++
	}
}

// begun waits, for a moment after the start, until the guests were asked for the first time.
func (w *Worker) begun(ctx context.Context) {
	w.mu.RLock()
	first := w.first
	w.mu.RUnlock()
	if first == nil {
		return
	}
	timer := time.NewTimer(time.Until(w.opened.Add(firstAsked)))
	defer timer.Stop()
	select {
	case <-first:
	case <-timer.C:
	case <-ctx.Done():
	}
}
