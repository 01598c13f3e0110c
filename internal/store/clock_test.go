package store

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

func TestLongSilencePausesTakeovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &clock{}
		answer := func(want bool) {
			t.Helper()
			c.answered(time.Now())
			if c.mayTakeOver(time.Now().UnixMicro(), time.Now()) != want {
				t.Errorf("may take over: %v", !want)
			}
		}
		answer(true)
		time.Sleep(24 * time.Hour) // nobody asked, nothing was missed
		answer(true)
		time.Sleep(stacyvm.LeaseTTL / 2)
		c.missed()
		time.Sleep(stacyvm.LeaseTTL / 2) // shorter than a lease: its holders can renew in time
		answer(true)
		time.Sleep(stacyvm.LeaseTTL)
		c.missed()
		time.Sleep(time.Second)
		answer(false)
		time.Sleep(driftPause - time.Second)
		answer(false)
		time.Sleep(time.Second)
		answer(true)
		c.pause(time.Now())
		answer(false)
		time.Sleep(driftPause)
		answer(true)
	})
}
