package api_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/api"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

func (f *fixture) public() *client.Client {
	f.t.Helper()
	c, err := client.New(f.server.URL, client.Options{APIKey: clientKey, UserID: "ada", HTTPClient: &http.Client{Transport: f.client.Transport}})
	if err != nil {
		f.t.Fatal(err)
	}
	return c
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestThePublicClient uses every call of the public client once.
func TestThePublicClient(t *testing.T) {
	f := start(t, func(c *api.Config) { withKeys(c); c.PreviewDomain = "preview.test" }, nil)
	c, ctx := f.public(), t.Context()
	admission, err := c.Admit(ctx, client.SpawnRequest{TTL: "10m"})
	must(t, err)
	s, err := c.Spawn(ctx, client.SpawnRequest{TTL: "10m", MemoryMB: 256, Metadata: map[string]string{"a": "b"}, Env: map[string]string{"FROM": "spawn"}})
	must(t, err)
	if !admission.Allowed || s.State != "running" || s.OwnerID != "ada" || s.MemoryMB != 256 || s.Metadata["a"] != "b" || s.PreviewDomain != "preview.test" {
		t.Errorf("admission %+v, sandbox %+v", admission, s)
	}
	extended, err := c.Extend(ctx, s.ID, time.Hour)
	must(t, err)
	if left := time.Until(extended.ExpiresAt); left < 59*time.Minute || left > 61*time.Minute {
		t.Errorf("%v left", left)
	}
	result, err := c.Exec(ctx, s.ID, client.ExecRequest{Command: "echo $FROM", User: "", Timeout: "5s"})
	must(t, err)
	if result.Stdout != "spawn\n" {
		t.Errorf("exec %+v", result)
	}

	p, err := c.Start(ctx, s.ID, client.ExecRequest{Command: "cat; echo done >&2", Stdin: true, Lossless: true})
	must(t, err)
	input := c.Input(s.ID, p.ID, 0)
	must(t, input.Write(ctx, []byte("h\xc3llo")))
	must(t, input.Close(ctx))
	got := map[client.Stream]string{}
	var exit *client.Exit
	for event, err := range c.Output(ctx, s.ID, p.ID, client.OutputRequest{}) {
		must(t, err)
		got[event.Stream] += string(event.Data)
		exit = event.Exit
	}
	if got[client.Stdout] != "h\xc3llo" || got[client.Stderr] != "done\n" || exit == nil || exit.StdoutBytes != 5 || len(exit.StdoutSHA256) != 64 {
		t.Errorf("output %q, exit %+v", got, exit)
	}
	p, err = c.Start(ctx, s.ID, client.ExecRequest{Command: "sleep 1000", Terminal: &client.Terminal{Rows: 5, Cols: 6}})
	must(t, err)
	must(t, c.Resize(ctx, s.ID, p.ID, client.Terminal{Rows: 7, Cols: 8}))
	must(t, c.Signal(ctx, s.ID, p.ID, "KILL"))
	p, err = c.Wait(ctx, s.ID, p.ID)
	must(t, err)
	if p.Running() || p.Signal != 9 || p.Command != "sleep 1000" || !p.Terminal {
		t.Errorf("process %+v", p)
	}
	if again, err := c.Process(ctx, s.ID, p.ID); err != nil || again.ID != p.ID {
		t.Errorf("process %+v, %v", again, err)
	}
	if list, err := c.Processes(ctx, s.ID); err != nil || len(list) != 3 {
		t.Errorf("processes %+v, %v", list, err)
	}

	info, err := c.Upload(ctx, s.ID, "dir/file", strings.NewReader("\xff\x00"), client.UploadOptions{Mode: 0o750})
	must(t, err)
	if mode, ok := info.Permissions(); !ok || mode != 0o750 || info.Size != 2 {
		t.Errorf("upload %+v", info)
	}
	body, err := c.Download(ctx, s.ID, "dir/file")
	must(t, err)
	content, err := io.ReadAll(body)
	must(t, errors.Join(err, body.Close()))
	if !bytes.Equal(content, []byte("\xff\x00")) {
		t.Errorf("download %q", content)
	}
	archive, err := c.DownloadArchive(ctx, s.ID, "dir")
	must(t, err)
	unpacked, err := c.UploadArchive(ctx, s.ID, "copy", archive, "")
	if must(t, errors.Join(err, archive.Close())); unpacked.Entries != 2 || unpacked.Failed != 0 {
		t.Errorf("unpacked %+v", unpacked)
	}
	if info, err := c.Stat(ctx, s.ID, "copy/file"); err != nil || info.Mode != "750" || info.Size != 2 {
		t.Errorf("copied %+v, %v", info, err)
	}
	must(t, c.Remove(ctx, s.ID, "copy", true))
	must(t, c.MakeDir(ctx, s.ID, "other", 0o700))
	must(t, c.Move(ctx, s.ID, "dir/file", "other/file"))
	must(t, c.Chmod(ctx, s.ID, "other/file", 0o600))
	if info, err := c.Stat(ctx, s.ID, "other/file"); err != nil || info.Mode != "600" {
		t.Errorf("stat %+v, %v", info, err)
	}
	if list, err := c.ListFiles(ctx, s.ID, "other"); err != nil || len(list) != 1 {
		t.Errorf("list %+v, %v", list, err)
	}
	if paths, err := c.Glob(ctx, s.ID, "/workspace/**/file"); err != nil || len(paths) != 1 {
		t.Errorf("glob %v, %v", paths, err)
	}
	must(t, c.Remove(ctx, s.ID, "other", true))
	if _, err := c.Stat(ctx, s.ID, "other"); client.CodeOf(err) != client.CodeNotFound {
		t.Errorf("stat of what is gone: %v", err)
	}

	if lines, err := c.Logs(ctx, s.ID, 0); err != nil || len(lines) == 0 {
		t.Errorf("logs %q, %v", lines, err)
	}
	if stats, err := c.Stats(ctx, s.ID); err != nil || !stats.Supported {
		t.Errorf("stats %+v, %v", stats, err)
	}
	if providers, err := c.Providers(ctx); err != nil || len(providers) != 1 || !providers[0].Healthy || !providers[0].Default {
		t.Errorf("providers %+v, %v", providers, err)
	}
	if healthy, err := c.TestProviders(ctx); err != nil || !healthy["mock"] {
		t.Errorf("test %v, %v", healthy, err)
	}
	if detail, err := c.Provider(ctx, "mock"); err != nil || detail.SandboxCount != 1 || detail.Config["type"] != "mock" {
		t.Errorf("provider %+v, %v", detail, err)
	}
	if health, err := c.Health(ctx); err != nil || health.Status != "ok" || health.Version != "test" {
		t.Errorf("health %+v, %v", health, err)
	}
	if ready, err := c.Ready(ctx); err != nil || ready.Status != "ready" || ready.ReadyProviders != 1 {
		t.Errorf("ready %+v, %v", ready, err)
	}
	report, err := c.Report(ctx)
	if err != nil || report.Status != "ok" || !report.Known || report.Sandboxes["running"] != 1 || len(report.Workers) != 1 || !report.Workers[0].Answers {
		t.Errorf("report %+v, %v", report, err)
	}
	if document, err := c.OpenAPI(ctx); err != nil || !bytes.Contains(document, []byte(`"3.1.0"`)) {
		t.Errorf("openapi %.100s, %v", document, err)
	}
	if page, next, err := c.SandboxPage(ctx, "", 5); err != nil || next != "" || len(page) != 1 || page[0].ID != s.ID {
		t.Errorf("a page %+v, %q, %v", page, next, err)
	}
	if n, err := c.Prune(ctx); err != nil || n != 0 {
		t.Errorf("pruned %d, %v", n, err)
	}
	must(t, c.Destroy(ctx, s.ID))
	if _, err := c.Sandbox(ctx, s.ID); client.CodeOf(err) != client.CodeNotFound {
		t.Errorf("destroyed: %v", err)
	}
	if list, err := c.Sandboxes(ctx); err != nil || len(list) != 0 {
		t.Errorf("sandboxes %+v, %v", list, err)
	}
}

// TestAServerThatStopsBreaksItsStreams: nobody takes the end of the server for the end of the
// output.
func TestAServerThatStopsBreaksItsStreams(t *testing.T) {
	for name, path := range map[string]string{"exec": "/exec", "output": "/processes/kept/output"} {
		f := start(t, nil, nil)
		root := "/api/v1/sandboxes/" + f.spawn().ID
		method, body := "GET", any(nil)
		if name == "exec" {
			method, body = "POST", map[string]any{"command": "echo one; sleep 1000", "stream": true}
		} else {
			f.do("POST", root+"/processes", `{"command":"echo one; sleep 1000","id":"kept"}`)
		}
		answer := f.open(context.Background(), method, root+path, body)
		if n, err := answer.Body.Read(make([]byte, 1)); n != 1 {
			t.Fatal(err)
		}
		f.stop()
		if rest, err := io.ReadAll(answer.Body); err == nil {
			t.Errorf("%s: ended well: %q", name, rest)
		}
	}
}

func TestRateLimit(t *testing.T) {
	f := start(t, func(c *api.Config) { withKeys(c); c.RateLimit = api.RateLimit{Enabled: true, PerMinute: 1, Burst: 2} }, nil)
	for i, want := range []int{200, 200, 429} {
		r := f.do("GET", "/api/v1/sandboxes", nil, "X-API-Key", clientKey)
		if r.StatusCode != want || r.Header.Get("X-RateLimit-Limit") != "2" {
			t.Errorf("request %d: %d %v", i, r.StatusCode, r.Header)
		}
		if want == 429 {
			if code, _ := r.refusal(t); code != "RESOURCE_LIMIT" || r.Header.Get("Retry-After") == "" {
				t.Errorf("refusal %s %v", r.text, r.Header)
			}
		}
	}
	for i, want := range []int{401, 401, 429} { // who tries keys is counted by its address
		if r := f.do("GET", "/api/v1/sandboxes", nil, "X-API-Key", "guess"); r.StatusCode != want {
			t.Errorf("guess %d: %d", i, r.StatusCode)
		}
	}
	if r := f.do("GET", "/api/v1/ready", nil); r.StatusCode != 200 {
		t.Errorf("a probe: %d", r.StatusCode)
	}
}

// TestEachOperationLeavesOneAuditLine: of what is done and of what is refused.
func TestEachOperationLeavesOneAuditLine(t *testing.T) {
	f := start(t, nil, func(c *control.Config) { c.AuditSync = true })
	id := f.spawn("X-User-ID", "ada").ID
	root := "/api/v1/sandboxes/" + id
	lines := func() (list []stacyvm.Operation) {
		t.Helper()
		must(t, f.store.View(t.Context(), func(tx store.Tx) (err error) {
			list, err = tx.Audit().Operations(t.Context(), store.OperationFilter{Limit: 500})
			return err
		}))
		return list
	}
	for _, c := range []struct{ method, path, body, action, status string }{
		{"POST", "/exec", `{"command":"true"}`, "exec", "ok"},
		{"POST", "/exec", `{"command":"true","timeout":"-1s"}`, "exec", "denied"},
		{"POST", "/processes", `{"command":"true"}`, "exec", "ok"},
		{"POST", "/files", `{"path":"a","content":"x"}`, "file.write", "ok"},
		{"POST", "/files", `{"path":"/workspace","content":"x"}`, "file.write", "failed"},
		{"GET", "/files?path=a", "", "file.read", "ok"},
		{"GET", "/files?path=nothing", "", "file.read", "failed"},
		{"GET", "/files/list", "", "file.list", "ok"},
		{"GET", "/files/stat?path=a", "", "file.stat", "ok"},
		{"GET", "/files/stat?path=nothing", "", "file.stat", "failed"},
		{"GET", "/files/glob?pattern=*", "", "file.glob", "ok"},
		{"POST", "/files/chmod", `{"path":"a","mode":"600"}`, "file.chmod", "ok"},
		{"POST", "/files/mkdir", `{"path":"d"}`, "file.mkdir", "ok"},
		{"POST", "/files/move", `{"old_path":"a","new_path":"b"}`, "file.move", "ok"},
		{"DELETE", "/files?path=b", "", "file.delete", "ok"},
		{"POST", "/extend", `{"ttl":"5m"}`, "sandbox.extend", "ok"},
		{"POST", "/extend", `{"ttl":"100h"}`, "sandbox.extend", "denied"},
		{"DELETE", "", "", "sandbox.destroy", "ok"},
		{"DELETE", "", "", "sandbox.destroy", "failed"},
	} {
		before := len(lines())
		f.do(c.method, root+c.path, c.body, "X-User-ID", "bob")
		all := lines()
		if len(all) != before+1 {
			t.Errorf("%s %s left %d lines", c.method, c.path, len(all)-before)
			continue
		}
		if line := all[0]; line.Action != c.action || line.Status != c.status || line.Actor != "bob" || line.SandboxID != stacyvm.SandboxID(id) {
			t.Errorf("%s %s left %+v", c.method, c.path, line)
		}
	}
}
