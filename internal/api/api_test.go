package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stacyvm/stacyvm/internal/api"
	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/engine/mock"
	"github.com/stacyvm/stacyvm/internal/image"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
	"github.com/stacyvm/stacyvm/internal/worker/local"
)

var update = flag.Bool("update", false, "write docs/openapi.json anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is an API on loopback over a real store, a real worker and an engine whose commands are
// processes of this machine.
type fixture struct {
	t      *testing.T
	server *httptest.Server
	client *http.Client
	store  store.Store
	engine *mock.Engine
	log    *bytes.Buffer // of the API; read it after the last request
	stop   func()        // ends requests under way, as a server that stops does
}

func start(t *testing.T, change func(*api.Config), changeControl func(*control.Config)) *fixture {
	t.Helper()
	return startOn(t, controltest.OpenStore(t), change, changeControl)
}

func startOn(t *testing.T, s store.Store, change func(*api.Config), changeControl func(*control.Config)) *fixture {
	t.Helper()
	f := &fixture{t: t, store: s, log: &bytes.Buffer{}}
	controltest.Register(t, f.store)
	service := controltest.NewService(t, f.store, f.openWorker(), changeControl)
	config := api.Config{Service: service, Version: "test", Started: time.Now(), Logger: slog.New(slog.NewJSONHandler(f.log, nil))}
	if change != nil {
		change(&config)
	}
	if !slices.ContainsFunc(config.Authenticators, func(one auth.Authenticator) bool { return one.Kind() == auth.KindClient }) {
		config.Authenticators = append(config.Authenticators, auth.Keys{}) // everybody may do everything
	}
	base, stop := context.WithCancel(context.Background())
	f.stop = stop
	f.server = httptest.NewUnstartedServer(api.New(config))
	f.server.Config.BaseContext = func(net.Listener) context.Context { return base }
	f.server.Start()
	t.Cleanup(func() { stop(); f.server.Close() })
	transport := &http.Transport{}
	f.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(transport.CloseIdleConnections)
	return f
}

func (f *fixture) openWorker() worker.Worker {
	f.t.Helper()
	var err error
	if f.engine, err = mock.Open(mock.Config{Dir: f.t.TempDir()}); err != nil {
		f.t.Fatal(err)
	}
	w, err := local.Open(local.Config{ID: controltest.Self, Dir: f.t.TempDir(), Engines: []engine.Engine{f.engine}, Images: noImages{}})
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() {
		if err := errors.Join(w.Close(), f.engine.Close()); err != nil {
			f.t.Error(err)
		}
	})
	return w
}

// noImages has the one image that the mock engine does not look at.
type noImages struct{}

func (noImages) Resolve(context.Context, string, string) (image.Root, error) {
	return image.Root{}, nil
}
func (noImages) Release(string) error       { return nil }
func (noImages) Holders() ([]string, error) { return nil, nil }

// response is an answer that was read to its end.
type response struct {
	*http.Response
	text string
}

func (r response) into(t *testing.T, value any) {
	t.Helper()
	if err := json.Unmarshal([]byte(r.text), value); err != nil {
		t.Fatalf("%v in %.300s", err, r.text)
	}
}

// refusal reads an error answer.
func (r response) refusal(t *testing.T) (code, message string) {
	t.Helper()
	var e struct{ Code, Message string }
	r.into(t, &e)
	return e.Code, e.Message
}

// do sends one request; headers are name, value pairs. A body that is a string goes as it is,
// others as JSON.
func (f *fixture) do(method, path string, body any, headers ...string) response {
	f.t.Helper()
	var reader io.Reader
	contentType := ""
	switch b := body.(type) {
	case nil:
	case string:
		reader, contentType = strings.NewReader(b), "application/json"
	case []byte:
		reader, contentType = bytes.NewReader(b), "application/octet-stream"
	default:
		text, err := json.Marshal(b)
		if err != nil {
			f.t.Fatal(err)
		}
		reader, contentType = bytes.NewReader(text), "application/json"
	}
	if !strings.HasPrefix(path, "http") {
		path = f.server.URL + path
	}
	request, err := http.NewRequestWithContext(f.t.Context(), method, path, reader)
	if err != nil {
		f.t.Fatal(err)
	}
	if contentType != "" {
		request.Header.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			request.Host = headers[i+1]
			continue
		}
		request.Header.Set(headers[i], headers[i+1])
	}
	answer, err := f.client.Do(request)
	if err != nil {
		f.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode == http.StatusSwitchingProtocols {
		return response{answer, ""}
	}
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		f.t.Fatalf("%s %s: read: %v", method, path, err)
	}
	return response{answer, string(text)}
}

// spawn makes a sandbox.
func (f *fixture) spawn(headers ...string) api.Sandbox {
	f.t.Helper()
	answer := f.do("POST", "/api/v1/sandboxes", nil, headers...)
	if answer.StatusCode != http.StatusCreated {
		f.t.Fatalf("spawn: %d %s", answer.StatusCode, answer.text)
	}
	var sandbox api.Sandbox
	answer.into(f.t, &sandbox)
	return sandbox
}

func TestDocument(t *testing.T) {
	const checkedIn = "../../docs/openapi.json"
	document, err := api.Document("dev")
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(checkedIn, document, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(checkedIn)
	if err != nil || !bytes.Equal(have, document) {
		t.Errorf("docs/openapi.json is not what the routes say (%v): run go generate ./internal/api", err)
	}
}
