package sqldb

import (
	"context"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// maxDrift is how far wall time and elapsed time may part before a jump of the clock is
	// assumed.
	maxDrift = 5 * time.Second
	// driftPause is how long nothing is taken over after a jump: lease and grace, so that every
	// owner can renew first.
	driftPause = 40 * time.Second
)

// Clock watches the database's clock against this process's monotonic one. Expiries are wall
// times; when the wall clock jumps forward every lease seems to have run out at once.
type Clock struct {
	Skew func() time.Duration // what a test adds to it; may be nil

	mu     sync.Mutex
	seen   bool
	mono   time.Time // the last reading, on both clocks
	wall   int64     // microseconds
	paused time.Time // monotonic

	silent bool      // the database did not answer since
	heard  time.Time // monotonic
}

// Skewed adds the skew that a test asked for.
func (c *Clock) Skewed(us int64) int64 {
	if c.Skew == nil {
		return us
	}
	return us + c.Skew().Microseconds()
}

// MayTakeOver notes a reading and reports whether leases of others may be taken over.
func (c *Clock) MayTakeOver(wall int64, mono time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen {
		drift := time.Duration(wall-c.wall)*time.Microsecond - mono.Sub(c.mono)
		if drift.Abs() > maxDrift {
			c.paused = mono.Add(driftPause)
		}
	}
	c.seen, c.wall, c.mono = true, wall, mono
	return !mono.Before(c.paused)
}

// Missed notes that the database did not answer.
func (c *Clock) Missed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.silent = true
}

// Answered notes that it did. After a silence longer than a lease every lease seems to have run
// out, because nobody could renew: owners come first.
func (c *Clock) Answered(mono time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.silent && mono.Sub(c.heard) > stacyvm.LeaseTTL {
		c.paused = mono.Add(driftPause)
	}
	c.silent, c.heard = false, mono
}

// HeardWithin reports whether the database answered lately, and nothing failed since.
func (c *Clock) HeardWithin(lately time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.silent && !c.heard.IsZero() && time.Since(c.heard) < lately
}

// Pause leaves the leases of others alone for a while.
func (c *Clock) Pause(mono time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = mono.Add(driftPause)
}

// HostClock reads the clock of an embedded database, which is this host's.
func HostClock(context.Context, Querier) (int64, error) { return time.Now().UnixMicro(), nil }
