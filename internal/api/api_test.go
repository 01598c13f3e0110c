package api_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stacyvm/stacyvm/internal/api"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
)

var update = flag.Bool("update", false, "write docs/openapi.json anew")

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fixture is an API on loopback over a service whose sandboxes have no guest.
type fixture struct {
	t       *testing.T
	server  *httptest.Server
	client  *http.Client
	service *control.Service
	worker  *controltest.Worker
}

func start(t *testing.T, change func(*api.Config), changeControl func(*control.Config)) *fixture {
	t.Helper()
	s := controltest.OpenStore(t)
	controltest.Register(t, s)
	f := &fixture{t: t, worker: controltest.NewWorker()}
	f.service = controltest.NewService(t, s, f.worker, changeControl)
	f.serve(change)
	return f
}

func (f *fixture) serve(change func(*api.Config)) {
	config := api.Config{Service: f.service, Version: "test", Started: time.Now()}
	if change != nil {
		change(&config)
	}
	f.server = httptest.NewServer(api.New(config))
	f.t.Cleanup(f.server.Close)
	transport := &http.Transport{}
	f.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	f.t.Cleanup(transport.CloseIdleConnections)
}

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

// do sends one request; headers are name, value pairs. A body that is a string goes as it is, others as JSON.
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

func TestSandboxLife(t *testing.T) {
	f := start(t, func(c *api.Config) { c.PreviewDomain = "preview.test" }, nil)
	answer := f.do("POST", "/api/v1/sandboxes", map[string]any{"memory_mb": 256, "ttl": "10m", "owner_id": "body", "tenant_id": 7,
		"metadata": map[string]string{"a": "b"}}, "X-User-ID", "ada")
	t.Log(answer.text)
	if answer.StatusCode != 400 { // tenant_id must be text where it is given
		t.Fatal(answer.StatusCode)
	}
	answer = f.do("POST", "/api/v1/sandboxes", map[string]any{"memory_mb": 256, "ttl": "10m", "owner_id": "body", "tenant_id": "theirs",
		"network_mode": "none", "metadata": map[string]string{"a": "b"}}, "X-User-ID", "ada")
	if answer.StatusCode != 201 {
		t.Fatal(answer.text)
	}
	t.Log(answer.text, answer.Header)
	for _, path := range []string{"/sandboxes", "/health", "/live", "/ready", "/providers", "/providers/mock", "/snapshots", "/pool/status", "/openapi.json", "/nothing", "//health", "/health/"} {
		answer = f.do("GET", "/api/v1"+path, nil)
		t.Logf("%s %d %.300s", path, answer.StatusCode, answer.text)
	}
	for _, b := range []string{"{", `{"ttl":5}`, `{"x":1}`, `{"ttl":"x"}`, `{}{}`, `[]`, `null`, `{"memory_mb":1e30}`, `{"vcpus":1.5}`, `{"metadata":{"a":1}}`, `{"ttl":"-5m"}`, `{"ttl":"1000h"}`} {
		answer = f.do("POST", "/api/v1/sandboxes", b)
		t.Logf("%s -> %d %s", b, answer.StatusCode, answer.text)
	}
	for _, c := range [][3]string{{"POST", "/sandboxes/x/extend", `{}`}, {"POST", "/sandboxes/x/extend", ``}, {"GET", "/sandboxes/x/files", ""}, {"GET", "/sandboxes/x/files?path=a&foo=1", ""}, {"PUT", "/sandboxes/x/files?path=a", ""},
		{"POST", "/sandboxes/x/exec", `{"command":"x","pty":{"rows":0}}`}, {"PATCH", "/sandboxes", ""}, {"OPTIONS", "/sandboxes", ""}, {"HEAD", "/sandboxes", ""}, {"GET", "/sandboxes/x/exec/ws", ""}, {"GET", "/sandboxes/x/logs?lines=q", ""}, {"GET", "/sandboxes/x/logs?lines=0", ""}} {
		answer = f.do(c[0], "/api/v1"+c[1], c[2])
		t.Logf("%v -> %d %s %v", c, answer.StatusCode, answer.text, answer.Header)
	}
}
