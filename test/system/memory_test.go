package system

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
)

// mostGrowth is how much the server may grow while 200 answers, 200 uploads and 200 lists are
// under way at once, in bytes.
const mostGrowth = 256 << 20

// TestMemoryOfRequests: commands that print much, uploads that stall and lists take no more than
// the server's budget together, every answer is whole, and a neighbour is served meanwhile.
func TestMemoryOfRequests(t *testing.T) {
	const callers, printed = 200, 2 << 20
	s := start(t)
	var boxes []client.Sandbox
	for range 4 {
		boxes = append(boxes, s.spawn(client.SpawnRequest{MemoryMB: 512, DiskMB: 1024}))
	}
	neighbour := s.spawn(client.SpawnRequest{})
	alone := s.lookups(t, neighbour.ID, 200)
	before := s.memory()

	watching, stop := context.WithCancel(t.Context())
	var watch, calls sync.WaitGroup
	peak := before
	watch.Go(func() {
		for watching.Err() == nil {
			peak = max(peak, s.memory())
			time.Sleep(20 * time.Millisecond) // a sample
		}
	})
	for i := range callers {
		end := s.stallUpload(boxes[i%len(boxes)].ID)
		defer end()
	}
	for i := range callers {
		exec, execSent := whenSent(t.Context())
		calls.Go(func() {
			result, err := s.Exec(exec, boxes[i%len(boxes)].ID, client.ExecRequest{Command: fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x", printed)})
			if err != nil || result.Truncated || result.Stdout != strings.Repeat("x", printed) {
				t.Errorf("exec: %d bytes, truncated %v: %v", len(result.Stdout), result.Truncated, err)
			}
		})
		list, listSent := whenSent(t.Context())
		calls.Go(func() {
			if found, err := s.Sandboxes(list); err != nil || len(found) != len(boxes)+1 {
				t.Errorf("list: %d: %v", len(found), err)
			}
		})
		<-execSent
		<-listSent
	}
	beside := s.lookups(t, neighbour.ID, 200)
	calls.Wait()
	stop()
	watch.Wait()
	t.Logf("server memory %d MiB -> %d MiB at most; a lookup's p99 %v alone, %v beside", before>>20, peak>>20, alone, beside)
	if peak-before > mostGrowth {
		t.Errorf("server memory grew by %d MiB", (peak-before)>>20)
	}
}

// whenSent gives a context for one call, and a channel that is closed when its request is on its
// way. Requests that begin one after the other do not run into the server's time limit for headers
// because this machine is busy with sending hundreds.
func whenSent(ctx context.Context) (context.Context, <-chan struct{}) {
	sent := make(chan struct{})
	once := sync.OnceFunc(func() { close(sent) })
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { once() }}), sent
}

// lookups gives the 99th percentile of so many lookups of a sandbox.
func (s *server) lookups(t *testing.T, sandbox string, n int) time.Duration {
	t.Helper()
	times := make([]time.Duration, n)
	for i := range times {
		began := time.Now()
		if _, err := s.Sandbox(t.Context(), sandbox); err != nil {
			t.Fatal(err)
		}
		times[i] = time.Since(began)
	}
	slices.Sort(times)
	return times[n*99/100]
}

// stallUpload sends a file of 15 MiB but for its last byte and leaves the connection open. The
// server may refuse it at any byte.
func (s *server) stallUpload(sandbox string) (end func()) {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL(), "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	const size = 15 << 20
	begin := []byte(`{"path":"stalled","content":"`)
	head := fmt.Sprintf("%s /api/v1/sandboxes/%s/files HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %s\r\n\r\n",
		http.MethodPost, sandbox, strconv.Itoa(size))
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		body := slices.Concat([]byte(head), begin, bytes.Repeat([]byte("x"), size-len(begin)-1))
		_, _ = conn.Write(body) // refused where the server has no room
	}()
	return func() {
		_ = conn.Close()
		<-sent
	}
}
