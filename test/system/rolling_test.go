package system

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/testneed"
	"github.com/stacyvm/stacyvm/test/harness"
)

const (
	perSecond = 20
	// between is how many requests pass between restarts: three seconds of them.
	between = 3 * perSecond
	// retryAfter is when a client that is not told otherwise tries again: an exec may miss its
	// worker for no longer.
	retryAfter = 5 * time.Second

	bootIDFile = "/proc/sys/kernel/random/boot_id"
)

// traffic is requests at a rate through two control planes, each with one more try through the
// other.
type traffic struct {
	*testing.T
	ask   func(plane int, method, path string, body, into any, header ...string) (status int, err error)
	boxes []string // sandboxes that are there all the time

	asked, again, failed atomic.Int64
	reads, execs, lives  atomic.Int64
	mu                   sync.Mutex
	slowest              time.Duration
	first                []string // what failed first
}

// roll does restarts one after the other under traffic on some gVisor sandboxes, and ends these.
// No request may fail with one more try, and no sandbox may be started again: the kernel in each
// has the boot id that it had.
func (f *traffic) roll(restarts ...func() error) {
	f.Helper()
	boots := map[string]string{}
	for i := range 6 {
		var made client.Sandbox
		if _, err := f.ask(i%2, "POST", "/sandboxes", map[string]any{"provider": "gvisor", "memory_mb": 128, "ttl": "1h"}, &made); err != nil {
			f.Fatal(err)
		}
		f.boxes = append(f.boxes, made.ID)
		boots[f.bootID(i%2, made.ID)] = made.ID
	}
	host, err := os.ReadFile(bootIDFile)
	if err != nil || len(boots) != len(f.boxes) || boots[strings.TrimSpace(string(host))] != "" {
		f.Fatalf("%d sandboxes and this host (%s, %v) do not all have boot ids of their own: %v", len(f.boxes), host, err, boots)
	}
	f.flow(restarts)
	f.Logf("%d requests (%d reads, %d commands, %d lives), %d tried again, the slowest took %v", f.asked.Load(), f.reads.Load(),
		f.execs.Load(), f.lives.Load(), f.again.Load(), f.slowest.Round(time.Millisecond))
	if f.failed.Load() > 0 {
		f.Errorf("%d requests failed: %s", f.failed.Load(), strings.Join(f.first, "\n"))
	}
	for i, box := range f.boxes {
		if boot := f.bootID(i%2, box); boots[boot] != box {
			f.Errorf("%s was started again: its boot id is %s; they were %v", box, boot, boots)
		}
		if _, err := f.ask(i%2, "DELETE", "/sandboxes/"+box, nil, nil); err != nil {
			f.Error(err)
		}
	}
}

// bootID is what the kernel of a sandbox calls its start.
func (f *traffic) bootID(plane int, box string) string {
	f.Helper()
	var result client.ExecResult
	_, err := f.ask(plane, "POST", "/sandboxes/"+box+"/exec", map[string]any{"command": "cat " + bootIDFile}, &result)
	id := strings.TrimSpace(result.Stdout)
	if err != nil || result.ExitCode != 0 || len(id) != 36 {
		f.Fatalf("the boot id of %s: %+v, %v", box, result, err)
	}
	return id
}

// flow sends requests at the rate while the restarts are done, some before and after each.
func (f *traffic) flow(restarts []func() error) {
	f.Helper()
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	defer running.Wait()
	defer stop()
	passed := make(chan struct{})
	running.Go(func() {
		ticks := time.NewTicker(time.Second / perSecond)
		defer ticks.Stop()
		defer close(passed)
		for n := 0; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-ticks.C:
			}
			running.Go(func() { f.request(n) })
			select {
			case passed <- struct{}{}:
			default:
			}
		}
	})
	for _, restart := range append(restarts, func() error { return nil }) {
		for range between {
			<-passed
		}
		if err := restart(); err != nil {
			f.Fatal(err)
		}
	}
}

// request makes one of each kind in turn: reads, commands, and a sandbox's whole life.
func (f *traffic) request(n int) {
	f.asked.Add(1)
	began := time.Now()
	box := f.boxes[n%len(f.boxes)]
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
		f.lives.Add(1)
		var made client.Sandbox
		err = f.twice(n, "POST", "/sandboxes", map[string]any{"provider": "mock", "memory_mb": 64}, &made, "Idempotency-Key", fmt.Sprintf("rolling-%d", n))
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
	status, err := f.ask(n%2, method, path, body, into, header...)
	if err == nil || status != 0 && status < http.StatusInternalServerError && status != http.StatusConflict {
		return err
	}
	f.again.Add(1)
	if status != 0 { // the control plane answers, the worker does not
		time.Sleep(retryAfter)
	}
	status, second := f.ask((n+1)%2, method, path, body, into, header...)
	if method == "DELETE" && status == http.StatusNotFound {
		return nil // the first try did it
	}
	if second != nil {
		second = fmt.Errorf("%s %s: %w; at first: %w", method, path, second, err)
	}
	return second
}

// once makes one request, which nobody repeats, and decodes the answer into a non-nil into. status
// is 0 without an answer.
func once(by *http.Client, method, url string, body, into any, header ...string) (status int, err error) {
	content, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(content))
	if err != nil {
		return 0, err
	}
	request.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := by.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	switch {
	case err != nil:
		return response.StatusCode, err
	case response.StatusCode >= http.StatusBadRequest:
		return response.StatusCode, fmt.Errorf("status %d: %s", response.StatusCode, text)
	case into != nil:
		err = json.Unmarshal(text, into)
	}
	return response.StatusCode, err
}

// TestRollingRestart replaces both control planes and one of two workers, one after the other,
// under 20 requests a second.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	testneed.GVisor(t)
	s := startSite(t, 2, 2, "STACYVM_PROVIDERS_GVISOR_ENABLED=true")
	f := &traffic{T: t, ask: func(plane int, method, path string, body, into any, header ...string) (int, error) {
		return once(http.DefaultClient, method, s.planes[plane].URL()+"/api/v1"+path, body, into, header...)
	}}
	f.roll(again(&s.planes[0].Program, s.planes[0].Up), again(&s.planes[1].Program, s.planes[1].Up), again(&s.workers[0].Program, s.workers[0].Up))
}

// again stops a process as an operator does, and starts it.
func again(p *harness.Program, up func() error) func() error {
	return func() error {
		if err := p.Stop(); err != nil {
			return err
		}
		return up()
	}
}
