// Package retry waits between attempts.
package retry

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	firstPause = 50 * time.Millisecond
	// MaxPause is the longest pause between two attempts.
	MaxPause = time.Second
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

// Backoff gives the pauses between attempts, each twice as long as the one before it, and says when to give up. It is for one
// goroutine.
type Backoff struct {
	// Within is how long attempts go on after the first failure.
	Within time.Duration

	pause  time.Duration
	giveUp time.Time // zero: nothing has failed yet
}

// Over reports, after a failure, whether it was the last attempt.
func (b *Backoff) Over() bool {
	if b.giveUp.IsZero() {
		b.pause, b.giveUp = firstPause, time.Now().Add(b.Within)
	}
	return time.Now().After(b.giveUp)
}

// Wait pauses before the next attempt. CodeUnavailable: ctx ended before.
func (b *Backoff) Wait(ctx context.Context) error {
	err := Sleep(ctx, b.pause)
	b.pause = min(2*b.pause, MaxPause)
	return err
}

// Reset follows a success: the next failure is a first one again.
func (b *Backoff) Reset() { b.giveUp = time.Time{} }
