package api_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stacyvm/stacyvm/internal/api"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// exec runs a command and demands an answer of 200.
func (f *fixture) exec(sandbox string, body any, headers ...string) (api.ExecResult, response) {
	f.t.Helper()
	r := f.do("POST", "/api/v1/sandboxes/"+sandbox+"/exec", body, headers...)
	if r.StatusCode != http.StatusOK {
		f.t.Fatalf("exec %v: %d %s", body, r.StatusCode, r.text)
	}
	var result api.ExecResult
	r.into(f.t, &result)
	return result, r
}

func TestExec(t *testing.T) {
	f := start(t, nil, nil)
	id := f.spawn().ID
	for name, c := range map[string]struct {
		body           map[string]any
		code           int
		stdout, stderr string
	}{
		"shell":         {map[string]any{"command": "echo out; echo err >&2; exit 7"}, 7, "out\n", "err\n"},
		"shell, args":   {map[string]any{"command": "printf '%s|'", "args": []string{"a b", "$HOME", "it's"}}, 0, "a b|$HOME|it's|", ""},
		"argv":          {map[string]any{"mode": "argv", "command": "printf", "args": []string{"%s|", "a b", "$HOME"}}, 0, "a b|$HOME|", ""},
		"env":           {map[string]any{"command": "echo $GREETING", "env": map[string]string{"GREETING": "hello"}}, 0, "hello\n", ""},
		"null fields":   {map[string]any{"command": "echo x", "args": nil, "env": nil, "timeout": nil, "stream": nil, "pty": nil}, 0, "x\n", ""},
		"signal":        {map[string]any{"command": "kill -9 $$"}, 137, "", ""},
		"no program":    {map[string]any{"mode": "argv", "command": "/no/such/program"}, 127, "", ""},
		"no permission": {map[string]any{"mode": "argv", "command": "/etc/passwd"}, 126, "", ""},
		"bytes":         {map[string]any{"command": `printf 'a\377b\303'`}, 0, "a\uFFFDb\uFFFD", ""},
		"nothing":       {map[string]any{"command": ""}, 0, "", ""},
	} {
		result, r := f.exec(id, c.body)
		if result.ExitCode != c.code || result.Stdout != c.stdout || result.Stderr != c.stderr || result.Duration == "" {
			t.Errorf("%s: %s", name, r.text)
		}
		if r.Header.Get("X-Process-ID") == "" {
			t.Errorf("%s: no process in %v", name, r.Header)
		}
	}
	result, _ := f.exec(id, map[string]any{"command": `printf 'a\377b'; printf '\303' >&2`, "encoding": "base64"})
	out, _ := base64.StdEncoding.DecodeString(result.StdoutBase64)
	errs, _ := base64.StdEncoding.DecodeString(result.StderrBase64)
	if string(out) != "a\xffb" || string(errs) != "\xc3" || result.Stdout != "" {
		t.Errorf("base64: %+v", result)
	}
}

func TestExecThatRunsTooLong(t *testing.T) {
	f := start(t, nil, nil)
	id := f.spawn().ID
	r := f.do("POST", "/api/v1/sandboxes/"+id+"/exec", `{"command":"echo before; sleep 100","timeout":"200ms"}`)
	if code, message := r.refusal(t); r.StatusCode != http.StatusRequestTimeout || code != "TIMEOUT" || !strings.HasPrefix(message, "exec timeout: "+id) {
		t.Fatalf("%d %s", r.StatusCode, r.text)
	}
	output := f.do("GET", "/api/v1/sandboxes/"+id+"/processes/"+r.Header.Get("X-Process-ID")+"/output", nil)
	if !strings.Contains(output.text, "before") || !strings.Contains(output.text, `"timed_out":true`) {
		t.Errorf("the output is lost: %s", output.text)
	}
}

func TestExecKeepsSixteenMiB(t *testing.T) {
	testneed.Patience(t)
	f := start(t, nil, nil)
	id := f.spawn().ID
	result, _ := f.exec(id, map[string]any{"command": "head -c 10485760 /dev/zero | tr '\\0' x; echo end >&2"})
	if len(result.Stdout) != 10<<20 || strings.Trim(result.Stdout, "x") != "" || result.Stderr != "end\n" || result.Truncated {
		t.Errorf("%d bytes, %q, truncated %v", len(result.Stdout), result.Stderr, result.Truncated)
	}
	result, _ = f.exec(id, map[string]any{"command": "head -c 17825792 /dev/zero | tr '\\0' x; exit 3"})
	if len(result.Stdout) != 16<<20 || !result.Truncated || result.ExitCode != 3 {
		t.Errorf("%d bytes, truncated %v, exit code %d", len(result.Stdout), result.Truncated, result.ExitCode)
	}
}

func TestExecRunsOnceUnderOneKey(t *testing.T) {
	f := start(t, nil, nil)
	id := f.spawn().ID
	body := map[string]any{"command": "echo ran >> count; wc -l < count"}
	first, r := f.exec(id, body, "Idempotency-Key", "key-1", "X-User-ID", "ada")
	if r.Header.Get("Idempotent-Replayed") != "" {
		t.Error("the first one is called a replay")
	}
	again, r := f.exec(id, body, "Idempotency-Key", "key-1", "X-User-ID", "ada")
	if again.Stdout != first.Stdout || strings.TrimSpace(first.Stdout) != "1" || r.Header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("first %q, again %q, %v", first.Stdout, again.Stdout, r.Header)
	}
	if other, _ := f.exec(id, body, "Idempotency-Key", "key-1", "X-User-ID", "bob"); strings.TrimSpace(other.Stdout) != "2" {
		t.Errorf("another caller's equal key: %q", other.Stdout)
	}
	refused := f.do("POST", "/api/v1/sandboxes/"+id+"/exec", `{"command":"echo other"}`, "Idempotency-Key", "key-1", "X-User-ID", "ada")
	if code, _ := refused.refusal(t); refused.StatusCode != http.StatusUnprocessableEntity || code != "KEY_REUSED" {
		t.Errorf("other body: %d %s", refused.StatusCode, refused.text)
	}
}

// TestExecsRaceForOneKey: of requests with one key that come at once, one body's command runs,
// once. Its requests get its output, one of them as the first, and the others are refused.
func TestExecsRaceForOneKey(t *testing.T) {
	f := start(t, nil, nil)
	id := f.spawn().ID
	for round := range 10 {
		key := fmt.Sprint("key-", round)
		answers := make([]response, 8)
		var asking sync.WaitGroup
		for i := range answers {
			asking.Go(func() {
				body := fmt.Sprintf(`{"command":"echo %d >> ran-%d; cat ran-%d","stream":%v}`, i%2, round, round, i%4 > 1)
				answers[i] = f.do("POST", "/api/v1/sandboxes/"+id+"/exec", body, "Idempotency-Key", key)
			})
		}
		asking.Wait()
		firsts, refused, bodies := 0, 0, map[int]bool{}
		for i, r := range answers {
			switch {
			case r.StatusCode == http.StatusUnprocessableEntity:
				refused++
				continue
			case r.StatusCode != http.StatusOK:
				t.Fatalf("%d %s", r.StatusCode, r.text)
			case r.Header.Get("Idempotent-Replayed") == "":
				firsts++
			}
			bodies[i%2] = true
		}
		result, _ := f.exec(id, map[string]any{"command": fmt.Sprintf("cat ran-%d", round)})
		if firsts != 1 || len(bodies) != 1 || refused != 4 || len(result.Stdout) != 2 {
			t.Errorf("%d were the first, %d refused, %d commands were answered; it ran as %q", firsts, refused, len(bodies), result.Stdout)
		}
	}
}

func TestSpawnUnderOneKey(t *testing.T) {
	f := start(t, nil, nil)
	spawn := func(body, key string) response {
		return f.do("POST", "/api/v1/sandboxes", body, "Idempotency-Key", key, "X-User-ID", "ada")
	}
	first := spawn(`{"metadata":{"a":"1","b":"2"}}`, "k")
	again := spawn(`{ "metadata" : {"b":"2","a":"1"}, "tenant_id": 5 }`, "k") // the same, written otherwise
	if first.StatusCode != 201 || again.StatusCode != 201 || first.text != again.text || again.Header.Get("Idempotent-Replayed") != "true" {
		t.Errorf("first %d %s, again %d %s %v", first.StatusCode, first.text, again.StatusCode, again.text, again.Header)
	}
	if r := spawn(`{}`, "k"); r.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("other body: %d %s", r.StatusCode, r.text)
	}
	if r := spawn(`{}`, "a b"); r.StatusCode != http.StatusBadRequest {
		t.Errorf("bad key: %d %s", r.StatusCode, r.text)
	}
	var sandbox api.Sandbox
	spawn(`{"owner_id":"eve"}`, "k2").into(t, &sandbox)
	if sandbox.OwnerID != "ada" {
		t.Errorf("owner %q, want the header's", sandbox.OwnerID)
	}
	f.do("POST", "/api/v1/sandboxes", `{"owner_id":"eve"}`).into(t, &sandbox)
	if sandbox.OwnerID != "eve" {
		t.Errorf("owner %q, want the body's", sandbox.OwnerID)
	}
}

func TestAdmissionHoldsNoUnknownKey(t *testing.T) {
	f := start(t, nil, nil)
	r := f.do("POST", "/api/v1/sandboxes/admission", `{"owner_id":"ada","ttl":"1h"}`)
	var plain, detailed map[string]any
	r.into(t, &plain)
	want := "allowed queueable active_sandboxes max_sandboxes max_ttl reason active_owner_sandboxes max_owner_sandboxes"
	for key := range plain {
		if !strings.Contains(want, key) {
			t.Errorf("key %s in %s", key, r.text)
		}
	}
	f.do("POST", "/api/v1/sandboxes/admission?detail=placement", nil).into(t, &detailed)
	if detailed["selected_worker_id"] != "here" || fmt.Sprint(detailed["eligible_workers"]) != "1" {
		t.Errorf("detail: %v", detailed)
	}
	f.do("POST", "/api/v1/sandboxes/admission", `{"ttl":"1000h"}`).into(t, &plain)
	if plain["allowed"] != false || plain["reason"] != "max_ttl" {
		t.Errorf("over the limit: %v", plain)
	}
}
