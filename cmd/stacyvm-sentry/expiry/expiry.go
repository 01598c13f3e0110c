// Package expiry decides when a launcher ends an expired sandbox by itself. It links nothing of
// gVisor, so that its tests build fast.
package expiry

import "time"

// Absence is a time without any server, as the launcher measured it.
type Absence struct {
	Since  time.Time     // its begin, by the wall clock of that moment
	Lasted time.Duration // by the monotonic clock, which nobody sets
	Now    time.Time     // its end so far, by the wall clock of now
}

// Over reports whether a sandbox that expires at the given time is to be ended: its expiry and
// the last server's leaving are both at least grace ago.
//
// It relies on the wall clock of the moment when the last server was connected. From there on the
// monotonic clock counts, so that a wall clock that is set forward ends nothing early. A wall
// clock that is set back, which was wrong before, postpones the end. The monotonic clock stands
// still while the machine is suspended: that postpones the end, too.
func (a Absence) Over(expires time.Time, grace time.Duration) bool {
	now := a.Since.Add(a.Lasted)
	if a.Now.Before(now) {
		now = a.Now
	}
	return a.Lasted >= grace && !now.Before(expires.Add(grace))
}
