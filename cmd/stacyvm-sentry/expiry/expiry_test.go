package expiry

import (
	"testing"
	"time"
)

func TestOver(t *testing.T) {
	const grace = 2 * time.Minute
	noon := time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC) // the last server left
	for _, test := range []struct {
		name    string
		lasted  time.Duration
		set     time.Duration // how far the wall clock was set meanwhile
		expires time.Time
		want    bool
	}{
		{"expired long ago, the server just left", time.Second, 0, noon.Add(-time.Hour), false},
		{"expired long ago, a restart takes a while", grace - 1, 0, noon.Add(-time.Hour), false},
		{"expired long ago, no server for the grace", grace, 0, noon.Add(-time.Hour), true},
		{"no server for long, expires later", time.Hour, 0, noon.Add(2 * time.Hour), false},
		{"no server for long, just expired", time.Hour, 0, noon.Add(time.Hour - time.Second), false},
		{"no server for long, expired for almost the grace", time.Hour, 0, noon.Add(time.Hour - grace + 1), false},
		{"no server for long, expired for the grace", time.Hour, 0, noon.Add(time.Hour - grace), true},
		{"the clock is set forward over the expiry", 3 * time.Minute, 24 * time.Hour, noon.Add(time.Hour), false},
		{"the clock is set forward, and the time passes", time.Hour + grace, 24 * time.Hour, noon.Add(time.Hour), true},
		{"the clock is set back", time.Hour + grace, -time.Hour, noon.Add(time.Hour), false},
		{"the clock is set back, and the time passes", 2*time.Hour + grace, -time.Hour, noon.Add(time.Hour), true},
	} {
		a := Absence{Since: noon, Lasted: test.lasted, Now: noon.Add(test.lasted + test.set)}
		if got := a.Over(test.expires, grace); got != test.want {
			t.Errorf("%s: %v", test.name, got)
		}
	}
}
