package workerd

import (
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/daemon/daemontest"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// slowRenewals is a way to a control plane on which renewals take their time, and everything else
// does not.
func slowRenewals(t *testing.T, address string, by time.Duration) string {
	t.Helper()
	proxy := httputil.NewSingleHostReverseProxy(must[*url.URL](t)(url.Parse(address)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/leases/renew") {
			select {
			case <-time.After(by): // this is the network
			case <-r.Context().Done():
			}
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// creating makes and destroys sandboxes, with clients that do not try twice, until stop; tolerated
// are the codes that may come. stop gives how many were made.
func creating(t *testing.T, address string, tolerated func() string) (stop func() int64) {
	t.Helper()
	web := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	caller := must[*client.Client](t)(client.New(address, client.Options{HTTPClient: web, Patience: time.Nanosecond}))
	var made atomic.Int64
	var ended atomic.Bool
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for !ended.Load() {
				may := tolerated()
				sandbox, err := caller.Spawn(t.Context(), client.SpawnRequest{Provider: "mock", MemoryMB: 64})
				if err == nil {
					made.Add(1)
					err = caller.Destroy(t.Context(), sandbox.ID)
				}
				if err != nil && !strings.Contains(may+tolerated(), client.CodeOf(err)) {
					t.Errorf("code %s: %v", client.CodeOf(err), err)
				}
			}
		})
	}
	return sync.OnceValue(func() int64 {
		ended.Store(true)
		clients.Wait()
		web.CloseIdleConnections()
		return made.Load()
	})
}

// TestCreatesWhileWorkersStart: one worker after the other comes, and renews its leases some time
// after it registered; no create meets one that would refuse it.
func TestCreatesWhileWorkersStart(t *testing.T) {
	testneed.Patience(t)
	plane := daemontest.PlaneConfig(t)
	plane.Auth.WorkerToken = workToken
	address := serving(t, plane)
	slow := slowRenewals(t, address, 300*time.Millisecond)
	start := func(id string) *process {
		c := workConfig(t, slow)
		c.Worker.ID, c.Auth.WorkerToken, c.Worker.MemoryMB, c.Worker.VCPUs = id, workToken, 1<<20, 1<<10
		p := startWork(t, Options{Config: c})
		p.working()
		return p
	}
	first := start("w0")
	stop := creating(t, address, func() string { return "" })
	defer stop()
	workers := []*process{first}
	for _, id := range []string{"w1", "w2", "w3"} {
		workers = append(workers, start(id))
	}
	if made := stop(); made < 3 {
		t.Errorf("only %d were made meanwhile", made)
	}
	for _, p := range workers {
		p.end()
	}
}

// TestCreatesWhileAWorkerComesBack: a worker that was killed is still called online. What is
// placed on it when its next process starts waits until that one acts, and is made under the epoch
// that it has then.
func TestCreatesWhileAWorkerComesBack(t *testing.T) {
	testneed.Patience(t)
	plane := daemontest.PlaneConfig(t)
	plane.Auth.WorkerToken = workToken
	address := serving(t, plane)
	c := workConfig(t, slowRenewals(t, address, 300*time.Millisecond))
	c.Auth.WorkerToken, c.Worker.MemoryMB, c.Worker.VCPUs = workToken, 1<<20, 1<<10
	caller := daemontest.ClientAt(t, address, nil)
	p := startWork(t, Options{Config: c})
	c.Worker.ListenAddr = strings.TrimPrefix(p.working().RPCURL, "http://")
	for range 3 {
		p.end()
		if _, err := caller.ResumeWorker(t.Context(), "w1"); err != nil { // as if it had not said that it ends
			t.Fatal(err)
		}
		// nobody answers there, and then it is starting
		stop := creating(t, address, func() string { return client.CodeUnavailable + " " + client.CodeResourceLimit })
		p = startWork(t, Options{Config: c})
		p.working()
		sandbox := must[client.Sandbox](t)(caller.Spawn(t.Context(), client.SpawnRequest{Provider: "mock", MemoryMB: 64}))
		if made := stop(); made < 1 {
			t.Errorf("%d were made", made)
		}
		if err := caller.Destroy(t.Context(), sandbox.ID); err != nil {
			t.Error(err)
		}
	}
	p.end()
}
