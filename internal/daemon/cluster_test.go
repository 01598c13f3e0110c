package daemon

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon/daemontest"
	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/engine/mock"
	"github.com/stacyvm/stacyvm/internal/image"
	"github.com/stacyvm/stacyvm/internal/pki"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
	"github.com/stacyvm/stacyvm/internal/worker/local"
	"github.com/stacyvm/stacyvm/internal/worker/remote"
)

// oneImage is the machine's own files, which the mock engine needs no more of.
type oneImage struct{}

func (oneImage) Resolve(context.Context, string, string) (image.Root, error) {
	return image.Root{Dir: "/"}, nil
}
func (oneImage) Release(string) error       { return nil }
func (oneImage) Holders() ([]string, error) { return nil, nil }

// machine is the RPC of a worker with the mock engine, without the process around it.
type machine struct {
	worker *local.Worker
	url    string
}

// startMachine opens the worker a and lets control planes with a certificate of the directory call
// it.
func startMachine(t *testing.T, dir string) *machine {
	t.Helper()
	e := must[*mock.Engine](t)(mock.Open(mock.Config{Dir: filepath.Join(t.TempDir(), "mock")}))
	w := must[*local.Worker](t)(local.Open(local.Config{ID: "a", Dir: filepath.Join(t.TempDir(), "worker"), Engines: []engine.Engine{e}, Images: oneImage{}}))
	pair := must[*pki.Credentials](t)(pki.Load(pki.WorkerFiles(dir, "a"), pki.Options{}))
	verifier := must[*auth.WorkerVerifier](t)(auth.NewWorkerVerifier(auth.WorkerVerifierConfig{Audience: auth.AudienceRPC, Worker: "a", Certificates: true}))
	server := &http.Server{Handler: remote.NewHandler(remote.ServerConfig{Worker: w, ID: "a", Verifier: verifier}), TLSConfig: pair.Server(false)}
	remote.Tune(server)
	listener := must[net.Listener](t)((&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0"))
	served := make(chan error, 1)
	go func() { served <- server.ServeTLS(listener, "", "") }()
	t.Cleanup(func() {
		_ = server.Close()
		<-served
		if err := w.Clear(context.Background()); err != nil {
			t.Error(err)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return &machine{w, "https://" + listener.Addr().String()}
}

// TestTwoControlPlanesOneWorker: neither has a worker of its own, both use the same one over
// mutual TLS; what one makes the other finds, uses and ends, also after the first is gone.
func TestTwoControlPlanesOneWorker(t *testing.T) {
	dir := daemontest.PKIDir(t)
	dsn := postgrestest.Schema(t)
	m := startMachine(t, dir)
	rows := must[store.Store](t)(store.Open(t.Context(), store.Config{Driver: "postgres", DSN: dsn}))
	t.Cleanup(func() { _ = rows.Close() })
	beat := func() {
		t.Helper()
		err := rows.Update(t.Context(), func(tx store.Tx) error {
			_, err := tx.Workers().Save(t.Context(), stacyvm.Worker{ID: "a", Status: "online", Session: "a-1", Providers: []string{"mock"}, Capacity: stacyvm.Capacity{RPCURL: m.url}})
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	beat()
	planes, stops := make([]*client.Client, 2), make([]func(), 2)
	for i := range planes {
		planes[i], stops[i] = startPlane(t, dir, dsn)
	}
	sandbox := must[client.Sandbox](t)(planes[0].Spawn(t.Context(), client.SpawnRequest{}))
	if sandbox.WorkerID != "a" || sandbox.State != "running" {
		t.Fatalf("made %+v", sandbox)
	}
	for _, c := range planes {
		result := must[client.ExecResult](t)(c.Exec(t.Context(), sandbox.ID, client.ExecRequest{Command: "echo hello; exit 3"}))
		if result.Stdout != "hello\n" || result.ExitCode != 3 {
			t.Errorf("%+v", result)
		}
	}
	must[client.FileInfo](t)(planes[1].Upload(t.Context(), sandbox.ID, filepath.Join(t.TempDir(), "file"), strings.NewReader("content"), client.UploadOptions{}))
	providers := must[[]client.Provider](t)(planes[1].Providers(t.Context()))
	if len(providers) != 1 || providers[0].Name != "mock" || !providers[0].Healthy {
		t.Errorf("providers: %+v", providers)
	}
	second := must[client.Sandbox](t)(planes[1].Spawn(t.Context(), client.SpawnRequest{TTL: "2s"}))
	stops[0]()
	// Its duties are free at once: the other ends what expires, and takes back what was lost and
	// is there again.
	for deadline := time.Now().Add(40 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		beat()
		if _, err := planes[1].Sandbox(t.Context(), second.ID); client.CodeOf(err) == client.CodeNotFound {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("nobody ended an expired sandbox after one control plane left")
		}
	}
	if err := planes[1].Destroy(t.Context(), sandbox.ID); err != nil {
		t.Error(err)
	}
	inventory, err := m.worker.Inventory(t.Context())
	if err != nil || len(inventory.Runtimes) != 0 {
		t.Errorf("the worker still has %+v, %v", inventory.Runtimes, err)
	}
}

// startPlane runs a control plane alone; stop ends it before the test does.
func startPlane(t *testing.T, dir, dsn string) (c *client.Client, stop func()) {
	t.Helper()
	settings := daemontest.PlaneConfig(t)
	settings.PKI.Dir = dir
	settings.Providers.Default = "mock"
	settings.Database = config.Database{Driver: "postgres", DSN: dsn}
	address, stop := daemontest.Start(t, serve(settings))
	web := daemontest.Trusting(t, dir, "HTTP/2.0")
	return must[*client.Client](t)(client.New(address, client.Options{HTTPClient: web})), stop
}
