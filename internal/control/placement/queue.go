package placement

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// queueEvery is how often those who wait try without being told that something ended: a
	// worker may have come.
	queueEvery = time.Second
	// queuePause is the least pause between tries, and queueShare how many times as long as the
	// last ones took it is at least.
	queuePause = 50 * time.Millisecond
	queueShare = 4
)

// queue is the line of creates that wait for room, in this process. They try in their order
// whenever something may have changed, each on its own: one that still finds no room, because it
// asks for more or its owner has enough, holds up nobody behind it.
type queue struct {
	QueueConfig
	watch   func(context.Context) <-chan struct{}
	came    chan struct{} // holds a value when somebody came
	closing chan struct{} // closed when nobody may wait any more

	mu      sync.Mutex
	waiting []*waiter
	closed  bool
}

// waiter is one create in the line. Its own goroutine tries: it takes a turn and answers it in
// refused, or leaves.
type waiter struct {
	owner   string                       // tenant and owner
	turn    chan time.Time               // a try at it counts as ended what has ended before this moment
	refused chan stacyvm.AdmissionReason // the reason why a try was refused
	left    chan struct{}                // closed when it waits no longer
	timeout *time.Timer                  // nil: none
	// the last refusal's reason, empty before the first; guarded by the queue's mu
	why stacyvm.AdmissionReason
}

func newQueue(c QueueConfig, watch func(context.Context) <-chan struct{}) *queue {
	return &queue{QueueConfig: c, watch: watch, came: make(chan struct{}, 1), closing: make(chan struct{})}
}

// open reports whether one more could wait.
func (q *queue) open() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.room()
}

func (q *queue) room() bool {
	return q.On && !q.closed && (q.Length == 0 || len(q.waiting) < q.Length)
}

// free reports whether a create of an owner may try without standing in line: nobody waits for
// what it would take.
func (q *queue) free(owner string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !slices.ContainsFunc(
		q.waiting,
		func(w *waiter) bool { return w.owner == owner || w.why != stacyvm.AdmissionMaxOwned },
	)
}

// join puts a create at the end of the line; nil when there is no room for it. leave must follow.
func (q *queue) join(owner string) *waiter {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.room() {
		return nil
	}
	w := &waiter{
		owner:   owner,
		turn:    make(chan time.Time),
		refused: make(chan stacyvm.AdmissionReason, 1),
		left:    make(chan struct{}),
	}
	if q.Timeout > 0 {
		w.timeout = time.NewTimer(q.Timeout)
	}
	q.waiting = append(q.waiting, w)
	select {
	case q.came <- struct{}{}:
	default:
	}
	return w
}

// next waits for a waiter's turn. It is answered in w.refused, or with leave. CodeLimit: the
// waiter has waited long enough; CodeUnavailable: ctx ended, or nobody may wait any more.
func (q *queue) next(ctx context.Context, w *waiter) (time.Time, error) {
	var timeout <-chan time.Time
	if w.timeout != nil {
		timeout = w.timeout.C
	}
	select {
	case turn := <-w.turn:
		return turn, nil
	case <-timeout:
		return time.Time{}, stacyvm.Errorf(stacyvm.CodeLimit, "no room for the sandbox within %s", q.Timeout)
	case <-q.closing:
		return time.Time{}, errStopping
	case <-ctx.Done():
		return time.Time{}, stacyvm.Wrap(stacyvm.CodeUnavailable, ctx.Err(), "the caller stopped waiting")
	}
}

// leave takes a waiter out of the line. It may be called again.
func (q *queue) leave(w *waiter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	at := slices.Index(q.waiting, w)
	if at < 0 {
		return
	}
	q.waiting = slices.Delete(q.waiting, at, at+1)
	if w.timeout != nil {
		w.timeout.Stop()
	}
	close(w.left)
}

var errStopping = stacyvm.Errorf(stacyvm.CodeUnavailable, "the server is stopping: creates do not wait any more")

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
		if q.turns(ctx) == 0 {
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

// turns lets each try once, in order, and gives the number of those who still wait. When one is
// refused for a limit that holds for others too, they are spared the same answer.
func (q *queue) turns(ctx context.Context) (left int) {
	q.mu.Lock()
	line := slices.Clone(q.waiting)
	q.mu.Unlock()
	began := time.Now()
	all, owners := false, map[string]bool{}
	for _, w := range line {
		why := q.one(ctx, w, began, func(last stacyvm.AdmissionReason) bool {
			return all && last != "" || owners[w.owner] && last == stacyvm.AdmissionMaxOwned
		})
		if why == "" {
			continue
		}
		left++
		all = all || why == stacyvm.AdmissionMaxSandboxes
		owners[w.owner] = owners[w.owner] || why == stacyvm.AdmissionMaxOwned
	}
	return left
}

// one gives a waiter its turn, unless spare says that this is of no use after its last refusal.
// It gives why it must wait on, or nothing when it need not.
func (q *queue) one(
	ctx context.Context,
	w *waiter,
	began time.Time,
	spare func(last stacyvm.AdmissionReason) bool,
) (why stacyvm.AdmissionReason) {
	if spare(w.why) { // written here alone
		return w.why
	}
	select {
	case w.turn <- began:
	case <-w.left:
		return ""
	case <-ctx.Done():
		return w.why
	}
	select {
	case why = <-w.refused:
	case <-w.left:
		return ""
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	w.why = why
	return why
}
