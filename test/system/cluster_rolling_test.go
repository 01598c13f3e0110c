//go:build cluster

package system

import "testing"

// TestClusterRollingRestart replaces both control planes and a worker of a cluster with mTLS and
// workers on machines of their own, one after the other, under 20 requests a second.
func TestClusterRollingRestart(t *testing.T) {
	c := startCluster(t, 2, 2)
	f := &traffic{T: t, ask: func(plane int, method, path string, body, into any, header ...string) (int, error) {
		return c.ask(c.planes[plane], method, path, body, into, header...)
	}}
	f.roll(again(&c.planes[0].Program, c.planes[0].Up), again(&c.planes[1].Program, c.planes[1].Up), again(&c.workers[0].Program, c.workers[0].Up))
}
