package member

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestRenewTakesTheRest: while a renewal leaves leases to be taken again, the next one follows at
// once, and the worker acts from the first on.
func TestRenewTakesTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(box)
		a := c.planes(1)[0]
		p := launch(t, "one", 1, a)
		<-p.Ready()
		a.set(absent)
		time.Sleep(time.Minute)
		if p.Gate() == nil {
			t.Fatal("the gate is open after a minute without a control plane")
		}
		c.mu.Lock()
		c.lapsed, c.renewals = 20, nil
		c.mu.Unlock()
		a.set(fine)
		time.Sleep(retryAfter + retryAfter/5 + 20*regainAfter + time.Millisecond)
		if err := p.Gate(); err != nil {
			t.Errorf("the gate: %v", err)
		}
		c.mu.Lock()
		renewals, left := len(c.renewals), c.lapsed
		c.mu.Unlock()
		if renewals != 21 || left != 0 {
			t.Errorf("%d renewals, %d are still lapsed", renewals, left)
		}
		if err := p.end(); err != nil {
			t.Error(err)
		}
	})
}
