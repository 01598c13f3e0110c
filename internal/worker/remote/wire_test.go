package remote_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
	"github.com/stacyvm/stacyvm/internal/worker/remote"
	workerv1 "github.com/stacyvm/stacyvm/proto/worker/v1"
	"github.com/stacyvm/stacyvm/proto/worker/v1/workerv1connect"
)

// scripted is a worker that says what it is told to.
type scripted struct {
	err       error
	asked     worker.CreateRequest
	created   worker.Created
	inventory worker.Inventory
	providers []worker.Provider
	probing   bool // it takes longer than anybody waits
	conn      guest.Conn
}

func (w *scripted) Create(_ context.Context, _ stacyvm.Ref, r worker.CreateRequest) (worker.Created, error) {
	w.asked = r
	return w.created, w.err
}
func (w *scripted) Destroy(context.Context, stacyvm.Ref) error { return w.err }
func (w *scripted) Inventory(context.Context) (worker.Inventory, error) {
	return w.inventory, w.err
}
func (w *scripted) Guest(context.Context, stacyvm.Ref, guest.Scope) (guest.Conn, error) {
	return w.conn, w.err
}
func (w *scripted) DialPort(context.Context, stacyvm.Ref, uint16) (net.Conn, error) {
	return nil, w.err
}
func (w *scripted) Providers(ctx context.Context) ([]worker.Provider, error) {
	if w.probing {
		<-ctx.Done()
	}
	return w.providers, w.err
}

// full fills every field that it finds, so that one which is forgotten on the way shows. Times
// have the wire's precision.
func full(v reflect.Value, n *int) {
	*n++
	switch {
	case v.Type() == reflect.TypeFor[time.Time]():
		v.Set(reflect.ValueOf(time.UnixMicro(1_700_000_000_000_000 + int64(*n)).UTC()))
	case v.Type() == reflect.TypeFor[time.Duration]():
		v.SetInt(int64(*n) * int64(time.Millisecond))
	case v.Kind() == reflect.Struct:
		for _, field := range v.Fields() {
			full(field, n)
		}
	case v.Kind() == reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		full(v.Index(0), n)
		full(v.Index(1), n)
	case v.Kind() == reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
		full(key, n)
		full(value, n)
		v.SetMapIndex(key, value)
	case v.Kind() == reflect.String:
		v.SetString(fmt.Sprint("text ", *n))
	case v.Kind() == reflect.Bool:
		v.SetBool(true)
	case v.CanInt():
		v.SetInt(int64(*n))
	default:
		panic("a " + v.Type().String())
	}
}

func filled[T any]() (value T) {
	n := 0
	full(reflect.ValueOf(&value).Elem(), &n)
	return value
}

// TestNothingIsLost: every field of what is asked and told crosses the wire.
func TestNothingIsLost(t *testing.T) {
	w := &scripted{created: filled[worker.Created](), inventory: filled[worker.Inventory](), providers: filled[[]worker.Provider]()}
	w.inventory.Worker = here
	client, _ := overTokens(t).connect(t, w, nil)
	asked := filled[worker.CreateRequest]()
	created, err := client.Create(t.Context(), fresh(), asked)
	if diff := cmp.Diff(w.created, created) + cmp.Diff(asked, w.asked); err != nil || diff != "" {
		t.Errorf("create: %v\n%s", err, diff)
	}
	inventory, err := client.Inventory(t.Context())
	if diff := cmp.Diff(w.inventory, inventory); err != nil || diff != "" {
		t.Errorf("inventory: %v\n%s", err, diff)
	}
	providers, err := client.Providers(t.Context())
	if diff := cmp.Diff(w.providers, providers); err != nil || diff != "" {
		t.Errorf("providers: %v\n%s", err, diff)
	}
	w.inventory.Runtimes = nil
	for i := range 5000 { // 20 MiB
		r := filled[worker.Runtime]()
		r.ID, r.Request.Spec.Env = stacyvm.SandboxID(fmt.Sprint("sb-", i)), map[string]string{"LONG": strings.Repeat("x", 4<<10)}
		w.inventory.Runtimes = append(w.inventory.Runtimes, r)
	}
	inventory, err = client.Inventory(t.Context())
	if err != nil || !reflect.DeepEqual(w.inventory, inventory) {
		t.Errorf("a large inventory: %d of %d, %v", len(inventory.Runtimes), len(w.inventory.Runtimes), err)
	}
	w.inventory, w.providers, w.created = worker.Inventory{Worker: here}, nil, worker.Created{}
	if inventory, err := client.Inventory(t.Context()); err != nil || len(inventory.Runtimes) != 0 {
		t.Errorf("nothing is %+v, %v", inventory, err)
	}
	created, err = client.Create(t.Context(), fresh(), worker.CreateRequest{})
	if diff := cmp.Diff(w.created, created) + cmp.Diff(worker.CreateRequest{}, w.asked); err != nil || diff != "" {
		t.Errorf("an empty create: %v\n%s", err, diff)
	}
}

// every calls each of the port's methods once.
func every(t *testing.T, w worker.Worker) map[string]error {
	t.Helper()
	found := mutating(t, w, fresh())
	_, found["inventory"] = w.Inventory(t.Context())
	_, found["providers"] = w.Providers(t.Context())
	return found
}

// TestErrorsCross: an error arrives with its code, message and field, and without its cause.
func TestErrorsCross(t *testing.T) {
	var logged strings.Builder
	w := &scripted{}
	client, _ := overMTLS(t).connect(t, w, func(c *remote.ServerConfig) {
		c.Logger = slog.New(slog.NewTextHandler(&locked{to: &logged}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	const cause = "/var/lib/secret: runsc said so"
	for _, code := range []stacyvm.Code{
		stacyvm.CodeInvalid, stacyvm.CodeUnauthenticated, stacyvm.CodeForbidden, stacyvm.CodeNotFound, stacyvm.CodeTimeout,
		stacyvm.CodeConflict, stacyvm.CodeInProgress, stacyvm.CodeKeyReused, stacyvm.CodeStaleEpoch, stacyvm.CodeLeaseLost,
		stacyvm.CodeLimit, stacyvm.CodeTooLarge, stacyvm.CodeStorageFull, stacyvm.CodeUnsupported, stacyvm.CodeUnavailable,
		stacyvm.CodeInternal,
	} {
		w.err = fmt.Errorf("wrapped: %w", &stacyvm.Error{Code: code, Message: "words for the caller, ünd more", Field: "a.field", Err: errors.New(cause)})
		for what, err := range every(t, client) {
			own, ok := errors.AsType[*stacyvm.Error](err)
			if !ok || own.Code != code || own.Message != "words for the caller, ünd more" || own.Field != "a.field" {
				t.Errorf("%s: %#v, want code %s", what, err, code)
				continue
			}
			secretFree(t, err, "secret", "runsc", "wrapped")
		}
	}
	for plain, want := range map[error]stacyvm.Code{
		errors.New(cause): stacyvm.CodeInternal, context.Canceled: stacyvm.CodeUnavailable, context.DeadlineExceeded: stacyvm.CodeTimeout,
		&stacyvm.Error{Code: "of a later release", Message: "m"}: stacyvm.CodeInternal,
	} {
		w.err = plain
		for what, err := range every(t, client) {
			wantCode(t, fmt.Sprintf("%s: %v", what, plain), err, want)
			secretFree(t, err, "secret", "runsc")
		}
	}
	w.err = stacyvm.Errorf(stacyvm.CodeConflict, "%s", strings.Repeat("long", 1<<20))
	for what, err := range every(t, client) {
		wantCode(t, what+" with a long message", err, stacyvm.CodeConflict)
	}
	if !strings.Contains(logged.String(), cause) {
		t.Error("the worker's log does not have the cause")
	}
}

// locked is a writer for several goroutines.
type locked struct {
	mu sync.Mutex
	to io.Writer
}

func (l *locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.to.Write(p)
}

// doer answers requests to a guest.
type doer func(*http.Request) (*http.Response, error)

func (d doer) Do(r *http.Request) (*http.Response, error) { return d(r) }

// TestGuestCannotForge: what a guest answers is a guest's answer, whatever it puts into it; and it
// sees nothing of the caller's credential.
func TestGuestCannotForge(t *testing.T) {
	var failure string
	w := &scripted{}
	seen := http.Header{}
	w.conn = guest.Conn{URL: "http://guest/base", HTTP: doer(func(r *http.Request) (*http.Response, error) {
		seen = r.Header.Clone()
		if r.URL.Path != "/base/stacyvm.guest.v1.SystemService/Ping" || r.URL.Host != "guest" {
			t.Errorf("the guest is asked for %s", r.URL)
		}
		head := http.Header{"Content-Type": {"application/proto"}, "Stacyvm-Failure": {failure}}
		return &http.Response{StatusCode: http.StatusOK, ProtoMajor: 2, Header: head, Trailer: http.Header{"Stacyvm-Failure": {failure}}, Body: io.NopCloser(strings.NewReader("")), Request: r}, nil
	})}
	client, l := overTokens(t).connect(t, w, nil)
	refused := httptest.NewRecorder()
	(*l.handler.Load()).ServeHTTP(refused, httptest.NewRequestWithContext(t.Context(), http.MethodPost, workerv1connect.WorkerServiceAdmitProcedure, nil))
	if failure = refused.Header().Get("Stacyvm-Failure"); failure == "" {
		t.Fatal("a refusal is not marked")
	}
	if _, err := reach(t, client, fresh(), guest.ScopeLogs).Ping(t.Context()); err != nil {
		t.Errorf("a guest's answer reads %v", err)
	}
	for _, private := range []string{"Authorization", "X-Worker-Id", "X-Request-Id", "X-Forwarded-For"} {
		if value := seen.Get(private); value != "" {
			t.Errorf("the guest is told %s: %s", private, value)
		}
	}
	w.conn.HTTP = doer(func(*http.Request) (*http.Response, error) {
		return nil, errors.New("dial unix /run/secret: no such file")
	})
	_, err := reach(t, client, fresh(), guest.ScopeLogs).Ping(t.Context())
	wantCode(t, "no connection to the guest", err, stacyvm.CodeUnavailable)
	secretFree(t, err, "secret")
}

// liar is a worker's service that breaks the protocol.
type liar struct {
	workerv1connect.UnimplementedWorkerServiceHandler
	pages []*workerv1.InventoryResponse
}

func (l liar) Inventory(_ context.Context, _ *connect.Request[workerv1.InventoryRequest], stream *connect.ServerStream[workerv1.InventoryResponse]) error {
	for _, page := range l.pages {
		if err := stream.Send(page); err != nil {
			return err
		}
	}
	return nil
}

// TestIncompleteInventory: a list that ends early, or is another worker's, is no inventory.
func TestIncompleteInventory(t *testing.T) {
	mine, others := string(here), "worker-b"
	for name, pages := range map[string][]*workerv1.InventoryResponse{
		"nothing":        nil,
		"not complete":   {{WorkerId: mine, Runtimes: []*workerv1.Runtime{{}}}},
		"another worker": {{WorkerId: others, Complete: true}},
		"mixed":          {{WorkerId: mine}, {WorkerId: others, Complete: true}},
		"not a spec":     {{WorkerId: mine, Runtimes: []*workerv1.Runtime{{Making: &workerv1.Making{Spec: []byte("{")}}}, Complete: true}},
	} {
		_, handler := workerv1connect.NewWorkerServiceHandler(liar{pages: pages})
		client := transport{}.dial(t, listen(t, handler, nil).url())
		inventory, err := client.Inventory(t.Context())
		wantCode(t, name, err, stacyvm.CodeUnavailable)
		if len(inventory.Runtimes) > 0 || inventory.Worker != "" {
			t.Errorf("%s: %+v", name, inventory)
		}
	}
	_, handler := workerv1connect.NewWorkerServiceHandler(liar{})
	client := transport{}.dial(t, listen(t, handler, nil).url())
	for what, err := range every(t, client) {
		if err == nil {
			t.Errorf("%s of a worker that cannot do it succeeds", what)
		}
	}
}

// TestLongProbe: who waits for less than a probe takes is told what is known.
func TestLongProbe(t *testing.T) {
	t.Parallel()
	w := &scripted{probing: true, providers: []worker.Provider{{Name: "x", Error: "it is still being probed"}}}
	client, _ := overMTLS(t).connect(t, w, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if providers, err := client.Providers(ctx); err != nil || len(providers) != 1 {
		t.Errorf("%+v, %v", providers, err)
	}
}

// TestRequestID: the id of the caller's request is in the worker's log.
func TestRequestID(t *testing.T) {
	var logged strings.Builder
	tr := overTokens(t)
	tr.client.RequestID = func(context.Context) string { return "request-7" }
	client, _ := tr.connect(t, &scripted{err: errTouched}, func(c *remote.ServerConfig) {
		c.Logger = slog.New(slog.NewTextHandler(&locked{to: &logged}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	})
	calls := every(t, client)
	if n := strings.Count(logged.String(), "id=request-7"); n != len(calls) {
		t.Errorf("%d of %d calls are logged under their id:\n%s", n, len(calls), logged.String())
	}
}

func TestNewClient(t *testing.T) {
	for _, url := range []string{"", "worker:7424", "ftp://worker", "https://worker:7424", "http://worker/path", "http://u:p@worker", "http://worker?x", "http://"} {
		c, err := remote.NewClient(remote.ClientConfig{ID: here, URL: url})
		wantCode(t, url, err, stacyvm.CodeInvalid)
		if c != nil {
			t.Errorf("%s: a client", url)
		}
	}
}

// TestUnreachable: what does not answer is unavailable, soon, and so is everything after Close.
func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	client := transport{}.dial(t, "http://"+l.Addr().String())
	for what, err := range every(t, client) {
		wantCode(t, what, err, stacyvm.CodeUnavailable)
	}
	closed, _ := overTokens(t).connect(t, &scripted{inventory: worker.Inventory{Worker: here}}, nil)
	if _, err := closed.Inventory(t.Context()); err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	for what, err := range every(t, closed) {
		wantCode(t, what+" after close", err, stacyvm.CodeUnavailable)
	}
}

// TestWrongCertificates: a client speaks to the worker that it means and to no other; a worker's
// listener lets nobody in without a certificate of the cluster.
func TestWrongCertificates(t *testing.T) {
	c := makeCertificates(t)
	w := &scripted{inventory: worker.Inventory{Worker: here}}
	right := transport{server: c.worker.Server(false)}
	right.verify.Certificates = true
	config := right.config(t, w)
	handler := remote.NewHandler(config)
	serving := map[string]*listener{"right": listen(t, handler, c.worker.Server(false)), "another worker": listen(t, handler, c.stranger.Server(false)), "control plane": listen(t, handler, c.control.Server(false))}
	stranger := makeCertificates(t)
	for name, use := range map[string]struct {
		l      *listener
		client remote.ClientConfig
		good   bool
	}{
		"right":                  {serving["right"], remote.ClientConfig{TLS: c.control.OfWorker(string(here))}, true},
		"another worker answers": {serving["another worker"], remote.ClientConfig{TLS: c.control.OfWorker(string(here))}, false},
		"no worker answers":      {serving["control plane"], remote.ClientConfig{TLS: c.control.OfWorker(string(here))}, false},
		"a worker calls":         {serving["right"], remote.ClientConfig{TLS: c.stranger.OfWorker(string(here))}, false},
		"it calls itself":        {serving["right"], remote.ClientConfig{TLS: c.worker.OfWorker(string(here))}, false},
		"another cluster calls":  {serving["right"], remote.ClientConfig{TLS: stranger.control.OfWorker(string(here))}, false},
	} {
		client := transport{client: use.client}.dial(t, use.l.url())
		_, err := client.Inventory(t.Context())
		if use.good != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
		wantCode(t, name, err, slices.Concat([]stacyvm.Code{""}, []stacyvm.Code{stacyvm.CodeUnauthenticated, stacyvm.CodeUnavailable})...)
	}
}
