package api_test

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/testneed"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// wrong is one bad request: the answer's status, code and the field that its message begins with
// ("" where no field is to blame).
type wrong struct {
	what   string
	path   string // below the sandbox; a leading / is below the prefix
	body   string
	status int
	code   string
	field  string
}

// misuse has wrong requests of every operation that takes anything from its caller.
var misuse = map[string][]wrong{
	"spawn": {
		{"not JSON", "/sandboxes", `{`, 400, "BAD_REQUEST", "body"},
		{"two values", "/sandboxes", `{} {}`, 400, "BAD_REQUEST", "body"},
		{"a list", "/sandboxes", `[]`, 400, "BAD_REQUEST", "body"},
		{"null", "/sandboxes", `null`, 400, "BAD_REQUEST", "body"},
		{"unknown field", "/sandboxes", `{"memmory":1}`, 400, "BAD_REQUEST", "memmory"},
		{"ttl of another kind", "/sandboxes", `{"ttl":30}`, 400, "BAD_REQUEST", "ttl"},
		{"malformed ttl", "/sandboxes", `{"ttl":"30 minutes"}`, 400, "BAD_REQUEST", "ttl"},
		{"ttl of nothing", "/sandboxes", `{"ttl":"0s"}`, 400, "BAD_REQUEST", "ttl"},
		{"negative ttl", "/sandboxes", `{"ttl":"-1m"}`, 400, "BAD_REQUEST", "ttl"},
		{"ttl over the limit", "/sandboxes", `{"ttl":"25h"}`, 429, "RESOURCE_LIMIT", "ttl"},
		{"too little memory", "/sandboxes", `{"memory_mb":1}`, 400, "BAD_REQUEST", "memory_mb"},
		{"negative memory", "/sandboxes", `{"memory_mb":-1}`, 400, "BAD_REQUEST", "memory_mb"},
		{"half a processor", "/sandboxes", `{"vcpus":0.5}`, 400, "BAD_REQUEST", "vcpus"},
		{"a number too large", "/sandboxes", `{"disk_mb":1e40}`, 400, "BAD_REQUEST", "disk_mb"},
		{"image with a space", "/sandboxes", `{"image":"a b"}`, 400, "BAD_REQUEST", "image"},
		{"unknown provider", "/sandboxes", `{"provider":"none such"}`, 404, "NOT_FOUND", ""},
		{"unknown template", "/sandboxes", `{"template":"t"}`, 404, "NOT_FOUND", ""},
		{"owner with a slash", "/sandboxes", `{"owner_id":"a/b"}`, 400, "BAD_REQUEST", "owner_id"},
		{"metadata of numbers", "/sandboxes", `{"metadata":{"a":1}}`, 400, "BAD_REQUEST", "metadata.a"},
		{"env with a bad name", "/sandboxes", `{"env":{"A=B":"x"}}`, 400, "BAD_REQUEST", "env"},
		{"unknown network", "/sandboxes", `{"network_mode":"bridge"}`, 400, "BAD_REQUEST", "network_mode"},
		{"network that is not here", "/sandboxes", `{"network_mode":"egress"}`, 422, "UNSUPPORTED", "network_mode"},
		{"unknown query", "/sandboxes?dry=1", `{}`, 400, "BAD_REQUEST", "dry"},
	},
	"admission": {
		{"malformed ttl", "/sandboxes/admission", `{"ttl":"x"}`, 400, "BAD_REQUEST", "ttl"},
		{"unknown detail", "/sandboxes/admission?detail=all", `{}`, 400, "BAD_REQUEST", "detail"},
	},
	"list-sandboxes": {
		{"unknown query", "/sandboxes?offset=5", "", 400, "BAD_REQUEST", "offset"},
		{"a page of nothing", "/sandboxes?limit=0", "", 400, "BAD_REQUEST", "limit"},
		{"a page too large", "/sandboxes?limit=1001", "", 400, "BAD_REQUEST", "limit"},
		{"no number", "/sandboxes?limit=ten", "", 400, "BAD_REQUEST", "limit"},
		{"no cursor", "/sandboxes?cursor=sb-000000000000000000000000", "", 400, "BAD_REQUEST", "cursor"},
		// "1 x"
		{"a cursor of no sandbox", "/sandboxes?cursor=MSB4", "", 400, "BAD_REQUEST", "cursor"},
		// "x sb-0…"
		{"a cursor of no time", "/sandboxes?cursor=eCBzYi0wMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA", "", 400, "BAD_REQUEST", "cursor"},
	},
	"admin-audit": {
		{"none", "/admin/audit?limit=0", "", 400, "BAD_REQUEST", "limit"},
		{"no status", "/admin/audit?status=9", "", 400, "BAD_REQUEST", "status"},
		{"unknown format", "/admin/audit?format=xml", "", 400, "BAD_REQUEST", "format"},
		{"unknown filter", "/admin/audit?user=ann", "", 400, "BAD_REQUEST", "user"},
	},
	"prune":    {{"unknown query", "/sandboxes?all=true", "", 400, "BAD_REQUEST", "all"}},
	"sandbox":  {{"absent", "/sandboxes/nonsense", "", 404, "NOT_FOUND", ""}},
	"destroy":  {{"absent", "/sandboxes/sb-000000000000000000000000", "", 404, "NOT_FOUND", ""}},
	"provider": {{"absent", "/providers/nonsense", "", 404, "NOT_FOUND", ""}},
	"extend": {
		{"no body", "extend", ``, 400, "BAD_REQUEST", "body"},
		{"no ttl", "extend", `{}`, 400, "BAD_REQUEST", "ttl"},
		{"empty ttl", "extend", `{"ttl":""}`, 400, "BAD_REQUEST", "ttl"},
		{"malformed ttl", "extend", `{"ttl":"5"}`, 400, "BAD_REQUEST", "ttl"},
		{"negative ttl", "extend", `{"ttl":"-5m"}`, 400, "BAD_REQUEST", "ttl"},
		{"ttl over the limit", "extend", `{"ttl":"25h"}`, 429, "RESOURCE_LIMIT", "ttl"},
	},
	"exec": {
		{"no body", "exec", ``, 400, "BAD_REQUEST", "body"},
		{"unknown mode", "exec", `{"command":"x","mode":"bash"}`, 400, "BAD_REQUEST", "mode"},
		{"argv without a program", "exec", `{"mode":"argv"}`, 400, "BAD_REQUEST", "command"},
		{"argv of a blank", "exec", `{"command":" \t\n","mode":"argv"}`, 400, "BAD_REQUEST", "command"},
		{"env that a shell drops", "exec", `{"command":"x","env":{"A-B":"x"}}`, 400, "BAD_REQUEST", "env"},
		{"args of another kind", "exec", `{"command":"x","args":"y"}`, 400, "BAD_REQUEST", "args"},
		{"an arg of another kind", "exec", `{"command":"x","args":["y",1]}`, 400, "BAD_REQUEST", "args[1]"},
		{"malformed timeout", "exec", `{"command":"x","timeout":"1 s"}`, 400, "BAD_REQUEST", "timeout"},
		{"negative timeout", "exec", `{"command":"x","timeout":"-1s"}`, 429, "RESOURCE_LIMIT", "timeout"},
		{"timeout over the limit", "exec", `{"command":"x","timeout":"11m"}`, 429, "RESOURCE_LIMIT", "timeout"},
		{"relative workdir", "exec", `{"command":"x","workdir":"a"}`, 400, "BAD_REQUEST", "workdir"},
		{"workdir of the kernel", "exec", `{"command":"x","workdir":"/proc/1"}`, 400, "BAD_REQUEST", "workdir"},
		{"user with a space", "exec", `{"command":"x","user":"a b"}`, 400, "BAD_REQUEST", "user"},
		{"env with a bad name", "exec", `{"command":"x","env":{"":"x"}}`, 400, "BAD_REQUEST", "env"},
		{"bad id", "exec", `{"command":"x","id":"a/b"}`, 400, "BAD_REQUEST", "id"},
		{"window of no size", "exec", `{"command":"x","pty":{"rows":0,"cols":5}}`, 400, "BAD_REQUEST", "pty.rows"},
		{"half a window", "exec", `{"command":"x","pty":{"rows":5}}`, 400, "BAD_REQUEST", "pty.cols"},
		{"unknown encoding", "exec", `{"command":"x","encoding":"hex"}`, 400, "BAD_REQUEST", "encoding"},
		{"zero byte", "exec", `{"command":"a\u0000b"}`, 400, "BAD_REQUEST", "command"},
		{"stream of another kind", "exec", `{"command":"x","stream":"yes"}`, 400, "BAD_REQUEST", "stream"},
	},
	"exec-websocket": {{"no upgrade", "exec/ws", ``, 400, "BAD_REQUEST", "Upgrade"}},
	"start": {
		{"no body", "processes", ``, 400, "BAD_REQUEST", "body"},
		{"a stream", "processes", `{"command":"x","stream":true}`, 400, "BAD_REQUEST", "stream"},
		{"malformed timeout", "processes", `{"command":"x","timeout":"x"}`, 400, "BAD_REQUEST", "timeout"},
	},
	"list-processes": {{"unknown query", "processes?all=1", ``, 400, "BAD_REQUEST", "all"}},
	"process": {
		{"absent", "processes/p", ``, 404, "NOT_FOUND", ""},
		{"impossible", "processes/a.b", ``, 404, "NOT_FOUND", ""},
		{"malformed wait", "processes/p?wait=yes", ``, 400, "BAD_REQUEST", "wait"},
		{"wait for nobody", "processes/p?wait=true", ``, 404, "NOT_FOUND", ""},
	},
	"output": {
		{"absent", "processes/p/output", ``, 404, "NOT_FOUND", ""},
		{"negative offset", "processes/p/output?stdout_offset=-1", ``, 400, "BAD_REQUEST", "stdout_offset"},
		{"malformed offset", "processes/p/output?stderr_offset=x", ``, 400, "BAD_REQUEST", "stderr_offset"},
		{"malformed follow", "processes/p/output?follow=2", ``, 400, "BAD_REQUEST", "follow"},
		{"unknown encoding", "processes/p/output?encoding=x", ``, 400, "BAD_REQUEST", "encoding"},
	},
	"input": {
		{"absent", "processes/p/input", `{"data":"x"}`, 404, "NOT_FOUND", ""},
		{"no base64", "processes/p/input", `{"data_base64":"!"}`, 400, "BAD_REQUEST", "data_base64"},
		{"both", "processes/p/input", `{"data":"x","data_base64":"eA=="}`, 400, "BAD_REQUEST", "data_base64"},
		{"negative offset", "processes/p/input", `{"offset":-1}`, 400, "BAD_REQUEST", "offset"},
	},
	"signal": {
		{"absent", "processes/p/signal", `{"signal":"TERM"}`, 404, "NOT_FOUND", ""},
		{"none", "processes/p/signal", `{}`, 400, "BAD_REQUEST", "signal"},
		{"unknown", "processes/p/signal", `{"signal":"NONE"}`, 400, "BAD_REQUEST", "signal"},
		{"zero", "processes/p/signal", `{"signal":"0"}`, 400, "BAD_REQUEST", "signal"},
	},
	"resize": {
		{"absent", "processes/p/resize", `{"rows":1,"cols":1}`, 404, "NOT_FOUND", ""},
		{"no size", "processes/p/resize", `{"rows":0,"cols":1}`, 400, "BAD_REQUEST", "rows"},
		{"too large", "processes/p/resize", `{"rows":1,"cols":65536}`, 400, "BAD_REQUEST", "cols"},
	},
	"download": {
		{"no path", "files", ``, 400, "BAD_REQUEST", "path"},
		{"empty path", "files?path=", ``, 400, "BAD_REQUEST", "path"},
		{"zero byte", "files?path=a%00b", ``, 400, "BAD_REQUEST", "path"},
		{"absent", "files?path=nothing", ``, 404, "NOT_FOUND", ""},
		{"a directory", "files?path=/workspace", ``, 400, "BAD_REQUEST", ""},
	},
	"write-file": {
		{"no path", "files", `{"content":"x"}`, 400, "BAD_REQUEST", "path"},
		{"no content", "files", `{"path":"a"}`, 400, "BAD_REQUEST", "content"},
		{"both", "files", `{"path":"a","content":"x","content_base64":"eA=="}`, 400, "BAD_REQUEST", "content_base64"},
		{"no base64", "files", `{"path":"a","content_base64":"?"}`, 400, "BAD_REQUEST", "content_base64"},
		{"mode in decimal", "files", `{"path":"a","content":"x","mode":"rw"}`, 400, "BAD_REQUEST", "mode"},
		{"mode too large", "files", `{"path":"a","content":"x","mode":"10000"}`, 400, "BAD_REQUEST", "mode"},
		{"mode of another kind", "files", `{"path":"a","content":"x","mode":644}`, 400, "BAD_REQUEST", "mode"},
		{"mode of nothing", "files", `{"path":"a","content":"x","mode":"0"}`, 400, "BAD_REQUEST", "mode"},
		{"a directory", "files", `{"path":"/workspace","content":"x"}`, 400, "BAD_REQUEST", ""},
	},
	"upload": {
		{"no path", "files", `x`, 400, "BAD_REQUEST", "path"},
		{"bad mode", "files?path=a&mode=9", `x`, 400, "BAD_REQUEST", "mode"},
		{"bad user", "files?path=a&user=a%20b", `x`, 400, "BAD_REQUEST", "user"},
	},
	"download-archive": {
		{"no path", "files/archive", ``, 400, "BAD_REQUEST", "path"},
		{"absent", "files/archive?path=nothing", ``, 404, "NOT_FOUND", ""},
		{"a file", "files/archive?path=/etc/hosts", ``, 404, "NOT_FOUND", ""}, // a mock sandbox has none
	},
	"upload-archive": {
		{"no path", "files/archive", `x`, 400, "BAD_REQUEST", "path"},
		{"bad user", "files/archive?path=a&user=a%20b", `x`, 400, "BAD_REQUEST", "user"},
		{"unknown user", "files/archive?path=a&user=nobody-here", ``, 400, "BAD_REQUEST", ""},
		{"no archive", "files/archive?path=a", strings.Repeat("x", 1024), 400, "BAD_REQUEST", ""},
	},
	"remove-file": {
		{"no path", "files", ``, 400, "BAD_REQUEST", "path"},
		{"absent", "files?path=nothing", ``, 404, "NOT_FOUND", ""},
		{"malformed recursive", "files?path=a&recursive=yes", ``, 400, "BAD_REQUEST", "recursive"},
		{"the root", "files?path=/&recursive=true", ``, 400, "BAD_REQUEST", "path"},
	},
	"list-files": {{"absent", "files/list?path=nothing", ``, 404, "NOT_FOUND", ""}},
	"stat-file":  {{"no path", "files/stat", ``, 400, "BAD_REQUEST", "path"}, {"absent", "files/stat?path=nothing", ``, 404, "NOT_FOUND", ""}},
	"glob":       {{"no pattern", "files/glob", ``, 400, "BAD_REQUEST", "pattern"}, {"malformed", "files/glob?pattern=%5Ba", ``, 400, "BAD_REQUEST", ""}},
	"move-file": {
		{"no source", "files/move", `{"new_path":"b"}`, 400, "BAD_REQUEST", "old_path"},
		{"no target", "files/move", `{"old_path":"a"}`, 400, "BAD_REQUEST", "new_path"},
		{"absent", "files/move", `{"old_path":"nothing","new_path":"b"}`, 404, "NOT_FOUND", ""},
	},
	"chmod-file": {
		{"no mode", "files/chmod", `{"path":"a"}`, 400, "BAD_REQUEST", "mode"},
		{"bad mode", "files/chmod", `{"path":"a","mode":"u+x"}`, 400, "BAD_REQUEST", "mode"},
		{"absent", "files/chmod", `{"path":"nothing","mode":"644"}`, 404, "NOT_FOUND", ""},
	},
	"make-dir": {{"no path", "files/mkdir", `{}`, 400, "BAD_REQUEST", "path"}, {"bad mode", "files/mkdir", `{"path":"a","mode":"8"}`, 400, "BAD_REQUEST", "mode"}},
	"logs": {
		{"malformed", "logs?lines=all", ``, 400, "BAD_REQUEST", "lines"},
		{"none", "logs?lines=0", ``, 400, "BAD_REQUEST", "lines"},
		{"too many", "logs?lines=10001", ``, 400, "BAD_REQUEST", "lines"},
	},
	"stats": {{"unknown query", "stats?x=1", ``, 400, "BAD_REQUEST", "x"}},
	"events": {
		{"no id", "/events?last_event_id=x", ``, 400, "BAD_REQUEST", "last_event_id"},
		{"neither yes nor no", "/events?follow=2", ``, 400, "BAD_REQUEST", "follow"},
		{"unknown query", "/events?sandbox=x", ``, 400, "BAD_REQUEST", "sandbox"},
	},
}

func init() { maps.Copy(misuse, workerMisuse) }

// takesNothing are operations without any input.
const takesNothing = " health live ready openapi status list-providers test-providers list-snapshots pool-status list-workers admin-list-workers list-join-tokens "

func TestWrongUse(t *testing.T) {
	f := start(t, withWorkers(t), withAuthority(t))
	id := f.spawn().ID
	for _, op := range operations(t) {
		if len(misuse[op.id]) == 0 && !strings.Contains(takesNothing, " "+op.id+" ") {
			t.Errorf("%s has no wrong use here", op.id)
		}
		for _, w := range misuse[op.id] {
			path := "/api/v1" + w.path
			if !strings.HasPrefix(w.path, "/") {
				path = "/api/v1/sandboxes/" + id + "/" + w.path
			}
			var body any
			if w.body != "" {
				body = w.body
			}
			r := f.do(op.method, path, body, "X-Worker-ID", string(controltest.Self), "X-Worker-Token", sharedKey)
			code, message := r.refusal(t)
			if r.StatusCode != w.status || code != w.code || w.field != "" && !strings.HasPrefix(message, w.field+": ") {
				t.Errorf("%s, %s: %d %s, want %d %s %s", op.id, w.what, r.StatusCode, r.text, w.status, w.code, w.field)
			}
			if r.Header.Get("Content-Type") != "application/json" {
				t.Errorf("%s, %s: %s", op.id, w.what, r.Header.Get("Content-Type"))
			}
			if strings.Contains(message, "/tmp/") || strings.Contains(message, "api.") {
				t.Errorf("%s, %s tells of the server's inside: %s", op.id, w.what, message)
			}
		}
	}
}

func TestWrongMethodsAndRoutes(t *testing.T) {
	f := start(t, nil, nil)
	for _, c := range []struct {
		method, path string
		status       int
		code, allow  string
	}{
		{"PATCH", "/api/v1/sandboxes", 405, "METHOD_NOT_ALLOWED", "GET, HEAD, POST, DELETE, OPTIONS"},
		{"DELETE", "/api/v1/health", 405, "METHOD_NOT_ALLOWED", "GET, HEAD, OPTIONS"},
		{"BREW", "/api/v1/health", 405, "METHOD_NOT_ALLOWED", "GET, HEAD, OPTIONS"},
		{"GET", "/", 404, "NOT_FOUND", ""},
		{"GET", "/api/v1", 404, "NOT_FOUND", ""},
		{"GET", "/api/v1/", 404, "NOT_FOUND", ""},
		{"GET", "/api/v1/health/", 404, "NOT_FOUND", ""},
		{"GET", "/api/v1//health", 404, "NOT_FOUND", ""},
		{"GET", "/api/v1/x/../health", 404, "NOT_FOUND", ""},
		{"GET", "/api/v1/sandboxes/a%2Fb", 400, "BAD_REQUEST", ""},
		{"OPTIONS", "/api/v1/nothing", 404, "NOT_FOUND", ""},
		{"POST", "/api/v2/sandboxes", 404, "NOT_FOUND", ""},
	} {
		r := f.do(c.method, c.path, nil)
		if code, _ := r.refusal(t); r.StatusCode != c.status || code != c.code || r.Header.Get("Allow") != c.allow {
			t.Errorf("%s %s: %d %s %q", c.method, c.path, r.StatusCode, r.text, r.Header.Get("Allow"))
		}
	}
	if r := f.do("OPTIONS", "/api/v1/sandboxes", nil); r.StatusCode != 204 || r.Header.Get("Allow") == "" {
		t.Errorf("OPTIONS: %d %v", r.StatusCode, r.Header)
	}
	if r := f.do("HEAD", "/api/v1/health", nil); r.StatusCode != 200 || r.text != "" || r.Header.Get("Content-Type") != "application/json" {
		t.Errorf("HEAD: %d %v", r.StatusCode, r.Header)
	}
}

func TestBodiesAreBounded(t *testing.T) {
	testneed.Patience(t)
	f := start(t, nil, nil)
	id := f.spawn().ID
	files := "/api/v1/sandboxes/" + id + "/files"
	long := func(n int) string { return strings.Repeat("x", n) }
	for name, c := range map[string]struct {
		path    string
		body    any
		headers []string
		status  int
		code    string
		field   string
	}{
		"over 1 MiB":       {"/api/v1/sandboxes", `{"image":"` + long(1<<20) + `"}`, nil, 413, "RESOURCE_LIMIT", "body"},
		"file over 16 MiB": {files, `{"path":"a","content":"` + long(16<<20) + `"}`, nil, 413, "RESOURCE_LIMIT", "body"},
		"input over 1 MiB": {"/api/v1/sandboxes/" + id + "/processes/p/input", `{"data":"` + long(1<<20+1) + `"}`, nil, 413, "RESOURCE_LIMIT", "data"},
		"too deep":         {"/api/v1/sandboxes", strings.Repeat(`{"metadata":`, 65) + "1" + strings.Repeat("}", 65), nil, 400, "BAD_REQUEST", "body"},
		"never ending":     {"/api/v1/sandboxes", strings.Repeat("[", 1<<19), nil, 400, "BAD_REQUEST", "body"},
		"gzip":             {"/api/v1/sandboxes", "{}", []string{"Content-Encoding", "gzip"}, 400, "BAD_REQUEST", "Content-Encoding"},
		"form":             {"/api/v1/sandboxes", "a=b", []string{"Content-Type", "application/x-www-form-urlencoded"}, 400, "BAD_REQUEST", "Content-Type"},
		"plain text":       {"/api/v1/sandboxes", "{}", []string{"Content-Type", "text/plain"}, 400, "BAD_REQUEST", "Content-Type"},
		"no UTF-8":         {files, "{\"path\":\"a\",\"content\":\"\xff\"}", nil, 400, "BAD_REQUEST", "content"},
	} {
		r := f.do("POST", c.path, c.body, c.headers...)
		if code, message := r.refusal(t); r.StatusCode != c.status || code != c.code || !strings.HasPrefix(message, c.field+": ") {
			t.Errorf("%s: %d %s", name, r.StatusCode, r.text)
		}
	}
	if r := f.do("POST", files, `{"path":"a","content":"`+long(15<<20)+`"}`); r.StatusCode != 200 {
		t.Errorf("15 MiB: %d %s", r.StatusCode, r.text)
	}
	if r := f.do("POST", "/api/v1/sandboxes", `{}`, "Content-Type", "application/json; charset=utf-8"); r.StatusCode != 201 {
		t.Errorf("with a charset: %d %s", r.StatusCode, r.text)
	}
}

// TestAnEndlessBodyIsRefused: the answer comes although the body never ends.
func TestAnEndlessBodyIsRefused(t *testing.T) {
	f := start(t, nil, nil)
	request, err := http.NewRequestWithContext(t.Context(), "POST", f.server.URL+"/api/v1/sandboxes", io.MultiReader(strings.NewReader(`{"image":"`), endless{}))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := f.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("status %d", answer.StatusCode)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// TestInternalErrorsTellNothing: the client gets a request id, the log the cause.
func TestInternalErrorsTellNothing(t *testing.T) {
	f := start(t, nil, func(c *control.Config) {
		c.Workers = func(stacyvm.WorkerID) (worker.Worker, error) { return nil, errors.New("open /var/lib/secret: no") }
	})
	r := f.do("POST", "/api/v1/sandboxes", nil, "X-Request-ID", "asked-1")
	code, message := r.refusal(t)
	if r.StatusCode != 500 || code != "INTERNAL_ERROR" || !strings.Contains(message, "asked-1") || strings.Contains(r.text, "secret") || r.Header.Get("X-Request-ID") != "asked-1" {
		t.Errorf("%d %s", r.StatusCode, r.text)
	}
	f.server.Close() // no more writes to the log
	if log := f.log.String(); !strings.Contains(log, "asked-1") || !strings.Contains(log, "/var/lib/secret") {
		t.Errorf("log %s", log)
	}
}
