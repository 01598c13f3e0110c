//go:build cluster

package system

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
)

const (
	perSecond = 20
	// retryAfter is when a client that is not told otherwise tries again: an exec may miss its worker for no longer.
	retryAfter = 5 * time.Second
)

// traffic is a rate of requests, each with one more try.
type traffic struct {
	c                      *cluster
	boxes                  []client.Sandbox
	asked, again, failed   atomic.Int64
	mu                     sync.Mutex
	slowest                time.Duration
	first                  []string // what failed first
	stop                   chan struct{}
	running                sync.WaitGroup
	reads, execs, lifetime atomic.Int64
}

// TestClusterRollingRestart replaces both control planes and a worker, one after the other, under 20 requests a second. No
// request fails with one more try, and no sandbox is started again.
func TestClusterRollingRestart(t *testing.T) {
	c := startCluster(t, 2, 2)
	flow := &traffic{c: c, stop: make(chan struct{})}
	for i := range 6 {
		s, err := c.planes[i%2].Spawn(t.Context(), client.SpawnRequest{Provider: "gvisor", MemoryMB: 128, TTL: "1h"})
		c.must(err)
		flow.boxes = append(flow.boxes, s)
	}
	// One process in each sandbox that knows a word which no other start would know.
	words := map[string]string{}
	for _, box := range flow.boxes {
		word, err := c.shell(c.planes[0], box.ID, "cat /proc/sys/kernel/random/uuid | tee /dev/shm/word")
		c.must(err)
		words[box.ID] = word
	}
	sentries := c.sentries()
	flow.running.Go(flow.run)
	for _, p := range c.planes {
		time.Sleep(3 * time.Second)
		c.must(p.Stop())
		c.must(p.Up())
	}
	time.Sleep(3 * time.Second)
	c.must(c.workers[0].Stop())
	c.must(c.workers[0].Up())
	time.Sleep(8 * time.Second) // what failed at last has its second try
	close(flow.stop)
	flow.running.Wait()

	t.Logf("%d requests (%d reads, %d commands, %d lives), %d tried again, the slowest took %v", flow.asked.Load(), flow.reads.Load(),
		flow.execs.Load(), flow.lifetime.Load(), flow.again.Load(), flow.slowest.Round(time.Millisecond))
	if flow.failed.Load() > 0 || flow.asked.Load() < 10*perSecond {
		t.Errorf("%d of %d requests failed: %s", flow.failed.Load(), flow.asked.Load(), strings.Join(flow.first, "\n"))
	}
	for _, box := range flow.boxes {
		if word, err := c.shell(c.planes[1], box.ID, "cat /dev/shm/word"); err != nil || word != words[box.ID] {
			t.Errorf("%s was started again: %q, was %q, %v", box.ID, word, words[box.ID], err)
		}
	}
	if now := c.sentries(); !covers(now, sentries) {
		t.Errorf("sandboxes have other processes: %v, were %v", now, sentries)
	}
}

// run sends requests at the rate until it is told to stop.
func (f *traffic) run() {
	ticks := time.NewTicker(time.Second / perSecond)
	defer ticks.Stop()
	for n := 0; ; n++ {
		select {
		case <-f.stop:
			return
		case <-ticks.C:
		}
		f.running.Go(func() { f.request(n) })
	}
}

func (f *traffic) request(n int) {
	f.asked.Add(1)
	began := time.Now()
	box := f.boxes[n%len(f.boxes)].ID
	var err error
	switch n % 10 {
	default:
		f.reads.Add(1)
		err = f.twice(n, "GET", "/sandboxes/"+box, nil, nil)
	case 1, 4, 7:
		f.execs.Add(1)
		var result client.ExecResult
		err = f.twice(n, "POST", "/sandboxes/"+box+"/exec", map[string]any{"command": fmt.Sprintf("echo %d", n)}, &result)
		if err == nil && result.Stdout != fmt.Sprintf("%d\n", n) {
			err = fmt.Errorf("exec gave %+v", result)
		}
	case 9:
		f.lifetime.Add(1)
		var made client.Sandbox
		key := fmt.Sprintf("rolling-%d", n)
		err = f.twice(n, "POST", "/sandboxes", map[string]any{"provider": "mock", "memory_mb": 64}, &made, "Idempotency-Key", key)
		if err == nil {
			err = f.twice(n, "DELETE", "/sandboxes/"+made.ID, nil, nil)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.slowest = max(f.slowest, time.Since(began))
	if err != nil {
		f.failed.Add(1)
		if len(f.first) < 10 {
			f.first = append(f.first, err.Error())
		}
	}
}

// twice makes a request, and when it fails once more through the other control plane.
func (f *traffic) twice(n int, method, path string, body, into any, header ...string) error {
	status, err := f.c.ask(f.c.planes[n%2], method, path, body, into, header...)
	if err == nil || status != 0 && status < http.StatusInternalServerError && status != http.StatusConflict {
		return err
	}
	f.again.Add(1)
	if status != 0 { // the control plane answers, the worker does not
		time.Sleep(retryAfter)
	}
	status, second := f.c.ask(f.c.planes[(n+1)%2], method, path, body, into, header...)
	if method == "DELETE" && status == http.StatusNotFound {
		return nil // the first try did it
	}
	if second != nil {
		second = fmt.Errorf("%s %s: %w; at first: %w", method, path, second, err)
	}
	return second
}
