package sqldb

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

func TestLongSilencePausesTakeovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Clock{}
		answer := func(want bool) {
			t.Helper()
			c.Answered(time.Now())
			if c.MayTakeOver(time.Now().UnixMicro(), time.Now()) != want {
				t.Errorf("may take over: %v", !want)
			}
		}
		answer(true)
		time.Sleep(24 * time.Hour) // nobody asked, nothing was missed
		answer(true)
		time.Sleep(stacyvm.LeaseTTL / 2)
		c.Missed()
		time.Sleep(stacyvm.LeaseTTL / 2) // shorter than a lease: its holders can renew in time
		answer(true)
		time.Sleep(stacyvm.LeaseTTL)
		c.Missed()
		time.Sleep(time.Second)
		answer(false)
		time.Sleep(driftPause - time.Second)
		answer(false)
		time.Sleep(time.Second)
		answer(true)
		c.Pause(time.Now())
		answer(false)
		time.Sleep(driftPause)
		answer(true)
	})
}

func TestClockJumpsPauseTakeovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Clock{}
		wall := time.Duration(0) // what the wall clock is off
		ask := func() bool { return c.MayTakeOver(time.Now().Add(wall).UnixMicro(), time.Now()) }
		pass := func(d time.Duration, want bool) {
			t.Helper()
			time.Sleep(d)
			if ask() != want {
				t.Errorf("may take over: %v", !want)
			}
		}
		pass(0, true)
		pass(24*time.Hour, true)
		wall += maxDrift - time.Second // slewed
		pass(time.Minute, true)
		for _, jump := range []time.Duration{time.Hour, -time.Hour, maxDrift + time.Second} {
			wall += jump
			pass(time.Minute, false)
			pass(driftPause-time.Second, false)
			pass(2*time.Second, true)
		}
	})
}
