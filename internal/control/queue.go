package control

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// queueEvery is how often those who wait try without being told that something ended: a worker may have come.
	queueEvery = time.Second
	// queuePause is the least pause between tries, and queueShare how many times as long as the last ones took it is at least.
	queuePause = 50 * time.Millisecond
	queueShare = 4
)

// queue is the line of creates that wait for room, in this process. They try in their order whenever something may have
// changed, each on its own: one that still finds no room, because it asks for more or its owner has enough, holds up nobody
// behind it.
type queue struct {
	on      bool
	limit   int           // how many may wait; 0: any number
	timeout time.Duration // 0: as long as the client waits
	watch   func(context.Context) <-chan struct{}
	came    chan struct{} // holds a value when somebody came
	closing chan struct{} // closed when nobody may wait any more

	mu      sync.Mutex
	waiting []*waiter
	closed  bool
}

// waiter is one create in the line.
type waiter struct {
	owner string // tenant and owner
	// try gives nil when the create is settled, with or without an error, and otherwise the admission that refused it. It
	// sees what ended before began.
	try     func(began time.Time) *stacyvm.Admission
	settled chan struct{} // closed when it need not wait any longer
	why     string        // the last refusal's reason, empty before the first; guarded by the queue's mu

	turn    sync.Mutex // held while it tries
	gone    bool
	refused *stacyvm.Admission // by the last try
}

func newQueue(d Defaults, watch func(context.Context) <-chan struct{}) *queue {
	return &queue{
		on: d.SpawnQueue, limit: d.MaxSpawnQueue, timeout: d.SpawnQueueTimeout, watch: watch,
		came: make(chan struct{}, 1), closing: make(chan struct{}),
	}
}

// open reports whether one more could wait.
func (q *queue) open() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.room()
}

func (q *queue) room() bool {
	return q.on && !q.closed && (q.limit == 0 || len(q.waiting) < q.limit)
}

// free reports whether a create of an owner may try without standing in line: nobody waits for what it would take.
func (q *queue) free(owner string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !slices.ContainsFunc(q.waiting, func(w *waiter) bool { return w.owner == owner || w.why != reasonOwnerMax })
}

// join puts a waiter at the end; false when there is no room for it.
func (q *queue) join(w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.room() {
		return false
	}
	q.waiting = append(q.waiting, w)
	select {
	case q.came <- struct{}{}:
	default:
	}
	return true
}

// leave takes a waiter out of the line. When it is trying, this waits for the end.
func (q *queue) leave(w *waiter) {
	q.mu.Lock()
	if at := slices.Index(q.waiting, w); at >= 0 {
		q.waiting = slices.Delete(q.waiting, at, at+1)
	}
	q.mu.Unlock()
	w.turn.Lock()
	w.gone = true
	w.turn.Unlock()
}

// close sends everybody away and lets nobody in.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.closed {
		q.closed = true
		close(q.closing)
	}
}

// run gives turns until ctx ends.
func (q *queue) run(ctx context.Context) {
	defer q.close()
	for {
		select {
		case <-q.came:
			q.serve(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// serve gives turns for as long as somebody waits.
func (q *queue) serve(ctx context.Context) {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	woken := q.watch(watching)
	tick := time.NewTicker(queueEvery)
	defer tick.Stop()
	for {
		began := time.Now()
		if q.turns() == 0 {
			return
		}
		if retry.Sleep(ctx, max(queuePause, queueShare*time.Since(began))) != nil {
			return
		}
		select {
		case <-woken:
		case <-q.came:
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// turns lets each try once, in order, and gives the number of those who still wait. When one is refused for a limit that holds
// for others too, they are spared the same answer.
func (q *queue) turns() (left int) {
	q.mu.Lock()
	line := slices.Clone(q.waiting)
	q.mu.Unlock()
	began := time.Now()
	all, owners := false, map[string]bool{}
	for _, w := range line {
		why := q.one(w, began, func(last string) bool { return all && last != "" || owners[w.owner] && last == reasonOwnerMax })
		if why == "" {
			continue
		}
		left++
		all = all || why == reasonMax
		owners[w.owner] = owners[w.owner] || why == reasonOwnerMax
	}
	return left
}

// one lets a waiter try, unless spare says that this is of no use after its last refusal. It gives why it must wait on, or
// nothing when it need not.
func (q *queue) one(w *waiter, began time.Time, spare func(last string) bool) (why string) {
	w.turn.Lock()
	defer w.turn.Unlock()
	switch {
	case w.gone:
		return ""
	case spare(w.why): // written here alone
		return w.why
	}
	w.refused = w.try(began)
	if w.refused == nil || !w.refused.Queueable {
		w.gone = true
		close(w.settled)
		return ""
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	w.why = w.refused.Reason
	return w.why
}
