package api_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/api"
	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
)

// example is a good request of one operation. {pid} stands for a process that waits.
type example struct {
	query  string
	body   any
	header []string
}

// examples has every operation by its id; one that is missing here fails the test below.
var examples = map[string]example{
	"health": {}, "live": {}, "ready": {}, "openapi": {}, "status": {},
	"events":         {query: "?follow=false&last_event_id=0"},
	"list-providers": {}, "test-providers": {}, "provider": {}, "list-snapshots": {}, "pool-status": {},
	"spawn": {}, "list-sandboxes": {}, "prune": {}, "admission": {}, "sandbox": {}, "destroy": {},
	"extend":           {body: `{"ttl":"5m"}`},
	"exec":             {body: `{"command":"true"}`},
	"exec-websocket":   {header: []string{"Upgrade", "websocket", "Connection", "Upgrade", "Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "AAAAAAAAAAAAAAAAAAAAAA=="}},
	"download":         {query: "?path=kept"},
	"write-file":       {body: `{"path":"other","content":"x"}`},
	"upload":           {query: "?path=upload", body: []byte("x")},
	"download-archive": {query: "?path=/workspace"},
	"upload-archive":   {query: "?path=unpacked", body: make([]byte, 1024)},
	"remove-file":      {query: "?path=kept"},
	"list-files":       {query: "?path=/workspace"},
	"stat-file":        {query: "?path=kept"},
	"glob":             {query: "?pattern=/workspace/*"},
	"move-file":        {body: `{"old_path":"kept","new_path":"moved"}`},
	"chmod-file":       {body: `{"path":"kept","mode":"600"}`},
	"make-dir":         {body: `{"path":"dir"}`},
	"logs":             {}, "stats": {}, "list-processes": {}, "process": {},
	"start":  {body: `{"command":"true"}`},
	"output": {query: "?follow=false"},
	"input":  {body: `{"data":"x"}`},
	"signal": {body: `{"signal":"CONT"}`},
	"resize": {body: `{"rows":10,"cols":20}`},

	"list-workers": {}, "worker": {}, "admin-list-workers": {}, "admin-worker": {}, "delete-worker": {}, "drain-worker": {}, "resume-worker": {},
	"admin-heartbeat":   {body: `{"hostname":"host"}`},
	"admin-renew-lease": {body: `{"ttl":"30s"}`},
	"heartbeat":         {body: `{"hostname":"host","capacity":{"unknown":1}}`},
	"renew-leases":      {body: `{"session":"s1"}`},
	"renew-lease":       {body: `{"ttl":"30s"}`},
	"lease":             {},
	"worker-token":      {body: `{"worker_id":"w"}`},
	"join-token":        {body: `{}`}, "list-join-tokens": {}, "delete-join-token": {}, "admin-audit": {},
	"join":        {body: `{"token":"x","worker_id":"w","csr":"x"}`},
	"certificate": {body: `{"csr":"x"}`},
}

// operation is one line of the OpenAPI document.
type operation struct {
	method, path, id string
	success          int
	public           bool
	worker           bool     // for workers, with credentials of their own
	needs            []string // scopes that the document names
}

func operations(t *testing.T) (list []operation) {
	t.Helper()
	text, err := api.Document("test")
	if err != nil {
		t.Fatal(err)
	}
	var document struct {
		Paths map[string]map[string]struct {
			OperationID string `json:"operationId"`
			Responses   map[string]any
			Security    []map[string][]string
		}
	}
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	for path, methods := range document.Paths {
		for method, o := range methods {
			op := operation{method: strings.ToUpper(method), path: path, id: o.OperationID, public: len(o.Security) == 0}
			for _, way := range o.Security {
				_, op.worker = way["worker"]
				for _, scopes := range way {
					op.needs = append(op.needs, scopes...)
				}
			}
			slices.Sort(op.needs)
			op.needs = slices.Compact(op.needs)
			for status := range o.Responses {
				if n, err := strconv.Atoi(status); err == nil && n < 400 {
					op.success = n
				}
			}
			list = append(list, op)
		}
	}
	slices.SortFunc(list, func(a, b operation) int { return strings.Compare(a.id, b.id) })
	return list
}

const clientKey, adminKey = "client-key-0123456789abcdef012345", "admin-key-0123456789abcdef0123456"

func withKeys(c *api.Config) {
	c.Authenticators = append(c.Authenticators, auth.NewKeys(clientKey, adminKey, true))
}

// subject is a sandbox of tenant ours with a file and a process that waits on a terminal.
type subject struct{ sandbox, process string }

func (f *fixture) subject() subject {
	f.t.Helper()
	ours := []string{"X-API-Key", clientKey, "X-Tenant-ID", "ours"}
	s := subject{sandbox: f.spawn(ours...).ID}
	root := "/api/v1/sandboxes/" + s.sandbox
	if r := f.do("POST", root+"/files", `{"path":"kept","content":"x"}`, ours...); r.StatusCode != 200 {
		f.t.Fatal(r.text)
	}
	r := f.do("POST", root+"/processes", `{"command":"sleep 1000","stdin":true,"pty":{"rows":24,"cols":80}}`, ours...)
	var process api.Process
	r.into(f.t, &process)
	if process.State != "running" {
		f.t.Fatal(r.text)
	}
	s.process = process.ID
	return s
}

func (op operation) url(e example, s subject) string {
	return "/api/v1" + strings.NewReplacer("{id}", s.sandbox, "{pid}", s.process, "{name}", "mock", "{worker}", string(controltest.Self)).Replace(op.path) + e.query
}

// TestEveryRouteAsksWho: each route × each credential × own, other tenant's and absent object.
// What is another tenant's answers exactly as what is not there.
func TestEveryRouteAsksWho(t *testing.T) {
	f := start(t, withKeys, nil)
	for _, op := range operations(t) {
		t.Run(op.id, func(t *testing.T) {
			e, known := examples[op.id]
			if !known {
				t.Fatalf("%s %s has no example here", op.method, op.path)
			}
			if op.worker || op.id == "join" || strings.HasPrefix(op.path, "/admin/") {
				return // see workers_test.go
			}
			f := *f
			f.t = t
			ask := func(s subject, headers ...string) response {
				return f.do(op.method, op.url(e, s), e.body, append(headers, e.header...)...)
			}
			var ours subject
			object := strings.Contains(op.path, "{id}")
			fresh := func(changed bool) { // what a request may have changed is made anew
				if object && changed {
					ours = f.subject()
				}
			}
			fresh(true)
			absent := subject{"sb-000000000000000000000000", ours.process}
			for name, headers := range map[string][]string{
				"no key": nil, "wrong key": {"X-API-Key", "wrong"}, "wrong admin key": {"X-Admin-API-Key", clientKey},
				"bearer": {"Authorization", "Bearer " + clientKey}, "user alone": {"X-User-ID", "root", "X-Tenant-ID", "ours"},
			} {
				r := ask(ours, headers...)
				if op.public {
					if r.StatusCode != op.success {
						t.Errorf("%s: %d %s", name, r.StatusCode, r.text)
					}
					continue
				}
				if code, _ := r.refusal(t); r.StatusCode != http.StatusUnauthorized || code != "UNAUTHORIZED" {
					t.Errorf("%s: %d %s", name, r.StatusCode, r.text)
				}
			}
			if object && op.id != "exec-websocket" { // which upgrades before it looks: see socket_test.go
				foreign := ask(ours, "X-API-Key", clientKey, "X-Tenant-ID", "theirs")
				missing := ask(absent, "X-API-Key", clientKey, "X-Tenant-ID", "theirs")
				if foreign.StatusCode != http.StatusNotFound || missing.StatusCode != http.StatusNotFound ||
					strings.ReplaceAll(foreign.text, ours.sandbox, "ID") != strings.ReplaceAll(missing.text, absent.sandbox, "ID") {
					t.Errorf("another tenant's: %d %s, absent: %d %s", foreign.StatusCode, foreign.text, missing.StatusCode, missing.text)
				}
			}
			if r := f.do(op.method, op.url(e, absent), e.body, append([]string{"X-Admin-API-Key", adminKey}, e.header...)...); object &&
				op.id != "exec-websocket" && r.StatusCode != http.StatusNotFound {
				t.Errorf("absent, admin: %d %s", r.StatusCode, r.text)
			}
			if op.id == "exec-websocket" {
				return
			}
			if r := ask(ours, "X-API-Key", clientKey, "X-Tenant-ID", "ours"); r.StatusCode != op.success {
				t.Errorf("own, client key: %d %s", r.StatusCode, r.text)
			}
			fresh(op.method != http.MethodGet)
			if r := ask(ours, "X-Admin-API-Key", adminKey); r.StatusCode != op.success {
				t.Errorf("admin key: %d %s", r.StatusCode, r.text)
			}
			fresh(op.method != http.MethodGet)
			if r := ask(ours, "X-API-Key", adminKey); r.StatusCode != op.success {
				t.Errorf("admin key as X-API-Key: %d %s", r.StatusCode, r.text)
			}
		})
	}
}

func TestListsShowTheTenantsOwn(t *testing.T) {
	f := start(t, withKeys, nil)
	ours := f.spawn("X-API-Key", clientKey, "X-Tenant-ID", "ours")
	theirs := f.spawn("X-API-Key", clientKey, "X-Tenant-ID", "theirs")
	for tenant, want := range map[string][]string{"ours": {ours.ID}, "theirs": {theirs.ID}, "": {theirs.ID, ours.ID}, "nobody": {}} {
		var list []api.Sandbox
		f.do("GET", "/api/v1/sandboxes", nil, "X-API-Key", clientKey, "X-Tenant-ID", tenant).into(t, &list)
		got := []string{}
		for _, s := range list {
			got = append(got, s.ID)
		}
		if !slices.Equal(got, want) {
			t.Errorf("tenant %q sees %v, want %v", tenant, got, want)
		}
	}
}

func TestOpenServer(t *testing.T) {
	f := start(t, nil, nil)
	if s := f.spawn("X-User-ID", "ada", "X-Tenant-ID", "ours"); s.OwnerID != "ada" || s.TenantID != "ours" {
		t.Errorf("sandbox %+v", s)
	}
	for header, value := range map[string]string{"X-User-ID": "a b", "X-Tenant-ID": "a/b"} {
		r := f.do("GET", "/api/v1/sandboxes", nil, header, value)
		if code, message := r.refusal(t); r.StatusCode != 400 || code != "BAD_REQUEST" || !strings.HasPrefix(message, header+": ") {
			t.Errorf("%s %q: %d %s", header, value, r.StatusCode, r.text)
		}
	}
}

func TestReadyTellsLittleWithoutAKey(t *testing.T) {
	draining := false
	f := start(t, func(c *api.Config) { withKeys(c); c.Draining = func() bool { return draining } }, nil)
	if r := f.do("GET", "/api/v1/ready", nil); r.StatusCode != 200 || r.text != "{\"status\":\"ready\"}\n" {
		t.Errorf("without a key: %d %s", r.StatusCode, r.text)
	}
	var told api.Readiness
	f.do("GET", "/api/v1/ready", nil, "X-API-Key", clientKey).into(t, &told)
	if told.Version != "test" || len(told.Providers) != 1 || *told.ReadyProviders != 1 || *told.TotalProviders != 1 {
		t.Errorf("with the key: %+v", told)
	}
	draining = true
	if r := f.do("GET", "/api/v1/ready", nil); r.StatusCode != 503 || r.text != "{\"status\":\"not_ready\"}\n" {
		t.Errorf("draining: %d %s", r.StatusCode, r.text)
	}
	r := f.do("GET", "/api/v1/sandboxes", nil, "X-API-Key", clientKey)
	if code, _ := r.refusal(t); code != "UNAVAILABLE" || r.Header.Get("Retry-After") == "" {
		t.Errorf("draining: %d %v %s", r.StatusCode, r.Header, r.text)
	}
}
