package daemon

import (
	"context"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon/daemontest"
	"github.com/stacyvm/stacyvm/internal/node"
)

// TestControlPlaneAlone serves without an engine, and is ready before its first worker.
func TestControlPlaneAlone(t *testing.T) {
	address := serving(t, daemontest.PlaneConfig(t))
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	response := must[*http.Response](t)(web.Get(address + "/api/v1/ready"))
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("ready: %s", response.Status)
	}
	c := must[*client.Client](t)(client.New(address, client.Options{HTTPClient: web}))
	if sandboxes, err := c.Sandboxes(t.Context()); err != nil || len(sandboxes) != 0 {
		t.Errorf("%v, %v", sandboxes, err)
	}
	if _, err := c.Spawn(t.Context(), client.SpawnRequest{}); err == nil {
		t.Error("a sandbox without a worker")
	}
}

// TestTLS: with a pki directory the API speaks TLS, over HTTP/2 and, for WebSockets, HTTP/1.1;
// certificates of clients are not asked for.
func TestTLS(t *testing.T) {
	c := daemontest.PlaneConfig(t)
	c.PKI.Dir = daemontest.PKIDir(t)
	c.Server.URL = "https://plane.test:7423"
	address := serving(t, c)
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		web := daemontest.Trusting(t, c.PKI.Dir, protocol)
		request := must[*http.Request](t)(http.NewRequestWithContext(t.Context(), http.MethodGet, address+"/api/v1/sandboxes", nil))
		request.Host = "plane.test:7423" // a name of the certificate
		response := must[*http.Response](t)(web.Do(request))
		_ = response.Body.Close()
		if response.StatusCode != http.StatusOK || response.Proto != protocol {
			t.Errorf("%s: %s by %s", protocol, response.Status, response.Proto)
		}
	}
	stranger := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if response, err := stranger.Get(address + "/api/v1/ready"); err == nil {
		_ = response.Body.Close()
		t.Error("the authority is believed by everybody")
	}
	response := must[*http.Response](t)(stranger.Get("http" + address[len("https"):] + "/api/v1/ready"))
	_ = response.Body.Close()
	if response.StatusCode != http.StatusBadRequest {
		t.Errorf("plain text: %s", response.Status)
	}
}

// TestLeaving: a server that others stand beside is not ready for a while before it refuses
// anything, and then ends.
func TestLeaving(t *testing.T) {
	c := daemontest.PlaneConfig(t)
	if err := node.MakeDataDir(c.DataDir); err != nil {
		t.Fatal(err)
	}
	made := must[*parts](t)(assemble(t.Context(), c, node.SharedPlace(c.DataDir, c.DatabasePath()), &trust{}, nil, daemontest.Quiet))
	ready := make(chan string, 1)
	s := newServer(Options{Config: c, Logger: daemontest.Quiet, Ready: func(address string) { ready <- address }}, made, auth.Keys{}, &trust{})
	s.notice = 2 * time.Second
	listener := must[net.Listener](t)((&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0"))
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- s.run(ctx, listener) }()
	address := <-ready
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	status := func(path string) int {
		response, err := web.Get(address + "/api/v1" + path)
		if err != nil {
			return 0
		}
		_ = response.Body.Close()
		return response.StatusCode
	}
	if status("/ready") != http.StatusOK {
		t.Error("not ready")
	}
	stop()
	for status("/ready") == http.StatusOK {
	}
	if status("/ready") != http.StatusServiceUnavailable || status("/sandboxes") != http.StatusOK {
		t.Error("a server that is leaving still answers requests, and says that it is not ready")
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if got := status("/sandboxes"); got != 0 {
		t.Errorf("after its end: %d", got)
	}
	if err := made.close(); err != nil {
		t.Error(err)
	}
}

// TestOfferOfTheServersWorker is what its registration tells, and no more than the configuration
// says.
func TestOfferOfTheServersWorker(t *testing.T) {
	c := daemontest.Config(t)
	if offer := capacityOf(c); offer.MaxSandboxes != 0 || offer.MemoryMB != 0 || offer.VCPUs != 0 || offer.RPCURL != "" {
		t.Errorf("unasked: %+v", offer)
	}
	c.Providers.Default, c.Providers.Mock.Enabled, c.Providers.GVisor.Enabled = "mock", true, false
	c.Server.Port, c.Server.PreviewDomain = 0, "preview.test"
	c.Worker = config.Worker{ID: "here", MaxSandboxes: 3, MemoryMB: 4096, VCPUs: 2, Labels: map[string]string{"zone": "a"}}
	address := serving(t, c)
	web := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	w := must[client.Worker](t)(must[*client.Client](t)(client.New(address, client.Options{HTTPClient: web})).Worker(t.Context(), "here"))
	if o := w.Capacity; o.MaxSandboxes != 3 || o.MemoryMB != 4096 || o.VCPUs != 2 || o.Labels["zone"] != "a" || o.PreviewDomain != "preview.test" {
		t.Errorf("registered %+v", o)
	}
}
