package remote_test

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/engine/mock"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/image"
	"github.com/stacyvm/stacyvm/internal/pki"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
	"github.com/stacyvm/stacyvm/internal/worker/local"
	"github.com/stacyvm/stacyvm/internal/worker/remote"
	"github.com/stacyvm/stacyvm/internal/worker/workertest"
)

// here is the id of the worker under test.
const here = stacyvm.WorkerID("worker-a")

// images has one image, the machine's own files.
type images struct{}

func (images) Resolve(ctx context.Context, name, _ string) (image.Root, error) {
	if name != workertest.Image {
		return image.Root{}, stacyvm.Errorf(stacyvm.CodeNotFound, "there is no image %q", name)
	}
	return image.Root{Dir: "/"}, ctx.Err()
}

func (images) Release(string) error { return nil }

func (images) Holders() ([]string, error) { return nil, nil }

// engineAndWorker is a local worker with the mock engine, in a directory of its own.
type engineAndWorker struct {
	dir    string
	engine *mock.Engine
	worker *local.Worker
}

func openLocal(t testing.TB) *engineAndWorker {
	t.Helper()
	m := &engineAndWorker{dir: t.TempDir()}
	m.openEngine(t)
	m.openWorker(t)
	t.Cleanup(func() { m.closeWorker(t); m.closeEngine(t) })
	return m
}

func (m *engineAndWorker) openEngine(t testing.TB) {
	t.Helper()
	e, err := mock.Open(mock.Config{Dir: filepath.Join(m.dir, "mock")})
	if err != nil {
		t.Fatal(err)
	}
	m.engine = e
}

func (m *engineAndWorker) openWorker(t testing.TB) {
	t.Helper()
	w, err := local.Open(local.Config{ID: here, Dir: filepath.Join(m.dir, "worker"), Engines: []engine.Engine{m.engine}, Images: images{}})
	if err != nil {
		t.Fatal(err)
	}
	m.worker = w
}

func (m *engineAndWorker) closeWorker(t testing.TB) {
	t.Helper()
	if err := m.worker.Close(); err != nil {
		t.Error(err)
	}
}

func (m *engineAndWorker) closeEngine(t testing.TB) {
	t.Helper()
	if err := m.engine.Close(); err != nil {
		t.Error(err)
	}
}

// certificates are a cluster's: of the worker here, of another one, and of a control plane.
type certificates struct {
	worker, stranger, control *pki.Credentials
	controlSerial             string
}

func makeCertificates(t testing.TB) *certificates {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "pki")
	if err := pki.Init(dir, false, time.Now()); err != nil {
		t.Fatal(err)
	}
	serial := ""
	load := func(r pki.Request) *pki.Credentials {
		issued, err := pki.Issue(dir, r, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		serial = issued.Serial
		c, err := pki.Load(pki.Files{Certificate: issued.Path, Authorities: issued.Bundle}, pki.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	c := &certificates{worker: load(pki.Request{Worker: string(here)}), stranger: load(pki.Request{Worker: "worker-b"})}
	c.control = load(pki.Request{Server: []string{"control.example.org"}})
	c.controlSerial = serial
	return c
}

// listener is a worker's listener that can be closed and opened again at the same address.
type listener struct {
	handler atomic.Pointer[http.Handler]
	tls     *tls.Config
	address string
	server  *http.Server
	done    chan error
	// accepted counts connections.
	accepted atomic.Int32
	// streams is how many a connection takes when it is opened again; 0: as many as a worker's.
	streams int
}

// listen serves until the test ends; without a TLS configuration in the clear.
func listen(t testing.TB, handler http.Handler, config *tls.Config) *listener {
	t.Helper()
	l := &listener{tls: config, address: "127.0.0.1:0"}
	l.handler.Store(&handler)
	l.open(t)
	t.Cleanup(l.close)
	return l
}

func (l *listener) open(t testing.TB) {
	t.Helper()
	socket, err := net.Listen("tcp", l.address)
	for tries := 0; errors.Is(err, syscall.EADDRINUSE) && tries < 200; tries++ {
		time.Sleep(50 * time.Millisecond) // opened again: a connection of another program has the port for a moment
		socket, err = net.Listen("tcp", l.address)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.address = socket.Addr().String()
	l.server = &http.Server{
		TLSConfig: l.tls.Clone(), ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*l.handler.Load()).ServeHTTP(w, r) }),
	}
	l.server.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			l.accepted.Add(1)
		}
	}
	remote.Tune(l.server)
	if l.streams > 0 {
		l.server.HTTP2.MaxConcurrentStreams = l.streams
	}
	l.done = make(chan error, 1)
	server, done := l.server, l.done
	go func() {
		if l.tls != nil {
			done <- server.ServeTLS(socket, "", "")
		} else {
			done <- server.Serve(socket)
		}
	}()
}

func (l *listener) close() {
	if l.done == nil { // it could not be opened again
		return
	}
	_ = l.server.Close()
	<-l.done
	l.done = nil
}

func (l *listener) url() string {
	if l.tls != nil {
		return "https://" + l.address
	}
	return "http://" + l.address
}

// transport is one way of proving who calls.
type transport struct {
	server *tls.Config // nil: in the clear
	verify auth.WorkerVerifierConfig
	client remote.ClientConfig // without its address
}

// overMTLS proves it by certificates.
func overMTLS(t testing.TB) transport {
	c := makeCertificates(t)
	return transport{
		server: c.worker.Server(false), verify: auth.WorkerVerifierConfig{Certificates: true},
		client: remote.ClientConfig{TLS: c.control.OfWorker(string(here))},
	}
}

// overTokens proves it by JWTs, without TLS.
func overTokens(t testing.TB) transport {
	issuer, err := auth.NewWorkerIssuer(auth.FixedSecret(keyA.privatePEM()), nil)
	if err != nil {
		t.Fatal(err)
	}
	token := func(context.Context) (string, error) {
		token, _, err := issuer.Issue(auth.WorkerTokenRequest{WorkerID: here, Audience: auth.AudienceRPC})
		return token, err
	}
	return transport{
		verify: auth.WorkerVerifierConfig{SigningKey: auth.FixedSecret(keyA.publicPEM())},
		client: remote.ClientConfig{Token: token},
	}
}

// config makes the handler's configuration.
func (tr transport) config(t testing.TB, w worker.Worker) remote.ServerConfig {
	t.Helper()
	tr.verify.Audience, tr.verify.Worker = auth.AudienceRPC, here
	v, err := auth.NewWorkerVerifier(tr.verify)
	if err != nil {
		t.Fatal(err)
	}
	return remote.ServerConfig{Worker: w, ID: here, Verifier: v}
}

func (tr transport) dial(t testing.TB, url string) *remote.Client {
	t.Helper()
	config := tr.client
	config.ID, config.URL = here, url
	c, err := remote.NewClient(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// connect leads to a worker; change may be nil.
func (tr transport) connect(t testing.TB, w worker.Worker, change func(*remote.ServerConfig)) (*remote.Client, *listener) {
	t.Helper()
	config := tr.config(t, w)
	if change != nil {
		change(&config)
	}
	l := listen(t, remote.NewHandler(config), tr.server)
	return tr.dial(t, l.url()), l
}

// machine is a remote worker for the suite.
func (tr transport) machine(t *testing.T) *workertest.Machine {
	m, _ := tr.suite(t)
	return m
}

// suite also gives the listener. Reopen ends the worker's whole process, with its connections.
func (tr transport) suite(t *testing.T) (*workertest.Machine, *listener) {
	far := openLocal(t)
	client, l := tr.connect(t, far.worker, nil)
	m := &workertest.Machine{Worker: client, Engine: far.engine, Ask: func(ctx context.Context) { far.worker.Ask(ctx) }}
	reopen := func(t *testing.T, between func()) {
		far.closeWorker(t)
		l.close()
		between()
		far.openWorker(t)
		handler := remote.NewHandler(tr.config(t, far.worker))
		l.handler.Store(&handler)
		l.open(t)
	}
	m.Reopen = func(t *testing.T) { reopen(t, func() {}) }
	m.Reboot = func(t *testing.T) {
		reopen(t, func() {
			far.closeEngine(t)
			far.openEngine(t)
			m.Engine = far.engine
		})
	}
	return m, l
}

// fresh gives a new sandbox's first ref.
func fresh() stacyvm.Ref { return at(stacyvm.NewSandboxID(), 1) }

func at(id stacyvm.SandboxID, epoch int64) stacyvm.Ref {
	return stacyvm.Ref{ID: id, Fence: stacyvm.Fence{Incarnation: 2, Epoch: epoch}}
}

// unaryCalls are the calls that a worker answers itself, and whose answer ends them, each for a
// sandbox that is there.
func unaryCalls(client *remote.Client, ref stacyvm.Ref) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"create":    func(ctx context.Context) error { _, err := client.Create(ctx, fresh(), request()); return err },
		"destroy":   func(ctx context.Context) error { return client.Destroy(ctx, ref) },
		"inventory": func(ctx context.Context) error { _, err := client.Inventory(ctx); return err },
		"providers": func(ctx context.Context) error { _, err := client.Providers(ctx); return err },
		"guest":     func(ctx context.Context) error { _, err := client.Guest(ctx, ref, guest.ScopeExec); return err },
		"port":      func(ctx context.Context) error { _, err := client.DialPort(ctx, ref, 80); return err },
	}
}

func request() worker.CreateRequest {
	return worker.CreateRequest{
		Cluster: "ours", OwnerID: "anne", TenantID: "acme", ExpiresAt: time.Now().Add(time.Hour),
		Spec: stacyvm.Spec{Image: workertest.Image, MemoryMB: 64, VCPUs: 1, DiskMB: 64},
	}
}

func create(t testing.TB, w worker.Worker, ref stacyvm.Ref) {
	t.Helper()
	if _, err := w.Create(t.Context(), ref, request()); err != nil {
		t.Fatalf("create: %v", err)
	}
}

func wantCode(t testing.TB, what string, err error, codes ...stacyvm.Code) {
	t.Helper()
	if got := stacyvm.CodeOf(err); !slices.Contains(codes, got) {
		t.Errorf("%s: code %q, want one of %q (%v)", what, got, codes, err)
	}
}

// until waits for something that another goroutine brings about and that nothing announces.
func until(t testing.TB, what string, true func() bool) {
	t.Helper()
	for limit := time.Now().Add(30 * time.Second); !true(); {
		if time.Now().After(limit) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// secretFree fails when an error tells what only the worker's log may.
func secretFree(t testing.TB, err error, words ...string) {
	t.Helper()
	for _, word := range words {
		if strings.Contains(err.Error(), word) {
			t.Errorf("%q is in %q", word, err)
		}
	}
}
