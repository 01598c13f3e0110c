// Package retry waits between attempts.
package retry

import (
	"cmp"
	"context"
	"math/rand/v2"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// FirstPause and MaxPause are the first and the longest pause between two attempts of a Backoff
// that names none.
const (
	FirstPause = 50 * time.Millisecond
	MaxPause   = time.Second
)

// Sleep waits for d. CodeUnavailable: ctx ended before.
func Sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return stacyvm.Wrap(stacyvm.CodeUnavailable, ctx.Err(), "the caller stopped waiting")
	}
}

// Jitter spreads the steps of several processes: it gives d ±10 %.
func Jitter(d time.Duration) time.Duration { return d - d/10 + rand.N(d/5+1) }

// Backoff gives the pauses between attempts, each twice as long as the one before it, and says
// when to give up. It is for one goroutine.
type Backoff struct {
	// Within is how long attempts go on after the first failure, for Over.
	Within time.Duration
	// First and Max are the first and the longest pause; 0: FirstPause and MaxPause.
	First, Max time.Duration
	// Spread makes each pause any part of its length, so that those who met once do not meet
	// again.
	Spread bool

	pause  time.Duration
	giveUp time.Time // zero: nothing has failed yet
}

// Over reports, after a failure, whether it was the last attempt.
func (b *Backoff) Over() bool {
	if b.giveUp.IsZero() {
		b.pause, b.giveUp = 0, time.Now().Add(b.Within)
	}
	return time.Now().After(b.giveUp)
}

// Wait pauses before the next attempt. CodeUnavailable: ctx ended before.
func (b *Backoff) Wait(ctx context.Context) error {
	if b.pause == 0 {
		b.pause = cmp.Or(b.First, FirstPause)
	}
	pause := b.pause
	if b.Spread {
		pause = rand.N(pause)
	}
	b.pause = min(2*b.pause, cmp.Or(b.Max, MaxPause))
	return Sleep(ctx, pause)
}

// Reset follows a success: the next failure is a first one again.
func (b *Backoff) Reset() { b.giveUp = time.Time{} }
