package api_test

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/api"
	"github.com/stacyvm/stacyvm/internal/budget"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

func withMemory(bytes int64) func(*api.Config) {
	return func(c *api.Config) { c.Memory = budget.New(bytes) }
}

// TestOutputBeyondTheBudget: answers that the server has no room for come from what the guests
// keep, byte for byte.
func TestOutputBeyondTheBudget(t *testing.T) {
	testneed.Patience(t)
	f := start(t, withMemory(1<<20), nil)
	id := f.spawn().ID
	line := strings.Repeat("grüße ", 100) + "\n"
	program := fmt.Sprintf("i=0; while [ $i -lt 3000 ]; do printf '%%s' '%s'; i=$((i+1)); done; printf 'err\\377' >&2; exit 3", line)
	want := strings.Repeat(line, 3000)
	var calls sync.WaitGroup
	for _, encoding := range []string{"text", "base64", "text", "base64"} {
		calls.Go(func() {
			result, r := f.exec(id, map[string]any{"command": program, "encoding": encoding})
			stdout, stderr := result.Stdout, result.Stderr
			if encoding == "base64" {
				out, _ := base64.StdEncoding.DecodeString(result.StdoutBase64)
				errs, _ := base64.StdEncoding.DecodeString(result.StderrBase64)
				stdout, stderr = string(out), strings.ToValidUTF8(string(errs), "\uFFFD")
			}
			if stdout != want || stderr != "err\uFFFD" || result.ExitCode != 3 || result.Truncated || result.Duration == "" {
				t.Errorf("%s: %d of %d bytes, stderr %q, %d, %v", encoding, len(stdout), len(want), stderr, result.ExitCode, r.Header)
			}
		})
	}
	calls.Wait()
	result, _ := f.exec(id, map[string]any{"command": "head -c 17825792 /dev/zero | tr '\\0' x"})
	if len(result.Stdout) != 16<<20 || !result.Truncated {
		t.Errorf("17 MiB: %d bytes, truncated %v", len(result.Stdout), result.Truncated)
	}
}

// stall begins a request with a body of which it sends a part, and gives what to call when it
// should end.
func (f *fixture) stall(method, path, begin string, length int) (end func()) {
	f.t.Helper()
	conn, err := net.Dial("tcp", f.server.Listener.Addr().String())
	must(f.t, err)
	_, err = fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", method, path, length, begin)
	must(f.t, err)
	return func() { _ = conn.Close() }
}

// TestStalledBodies: bodies that do not come to their end keep no other request from being
// answered but those that need as much room, and these are told to come again.
func TestStalledBodies(t *testing.T) {
	f := start(t, withMemory(4<<20), nil)
	id := f.spawn().ID
	files := "/api/v1/sandboxes/" + id + "/files"
	begin := `{"path":"stalled","content":"` + strings.Repeat("x", 1<<20)
	write := func(bytes int) response {
		return f.do("POST", files, fmt.Sprintf(`{"path":"a","content":"%s"}`, strings.Repeat("x", bytes)))
	}
	var ends []func()
	for len(ends) < 100 { // as many as it takes: what a connection has sent is not counted before it is read
		r := write(1 << 20)
		if r.StatusCode == http.StatusServiceUnavailable {
			if r.Header.Get("Retry-After") == "" {
				t.Errorf("no word of when to come again: %v", r.Header)
			}
			break
		}
		if r.StatusCode != http.StatusOK {
			t.Fatalf("%d %s", r.StatusCode, r.text)
		}
		ends = append(ends, f.stall("POST", files, begin, 15<<20))
	}
	if len(ends) == 100 {
		t.Fatal("100 stalled bodies of 1 MiB in a budget of 4")
	}
	if r := write(16 << 10); r.StatusCode != http.StatusOK {
		t.Errorf("a small file: %d %s", r.StatusCode, r.text)
	}
	if result, _ := f.exec(id, map[string]any{"command": "head -c 2000000 /dev/zero | tr '\\0' x"}); len(result.Stdout) != 2000000 {
		t.Errorf("output of %d bytes", len(result.Stdout))
	}
	raw := f.do("PUT", files+"?path=raw", make([]byte, 3<<20))
	if raw.StatusCode != http.StatusOK {
		t.Errorf("an upload that is not kept: %d %s", raw.StatusCode, raw.text)
	}
	for _, end := range ends {
		end()
	}
	for write(1<<20).StatusCode != http.StatusOK { // the server notices that they are gone
		if t.Context().Err() != nil {
			t.Fatal("what the stalled bodies held is not given back")
		}
	}
}

// TestArchiveBeyondTheBudget: an archive is unpacked as it comes, and counts as little as an
// upload.
func TestArchiveBeyondTheBudget(t *testing.T) {
	f := start(t, withMemory(1<<20), nil)
	id := f.spawn().ID
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	const files, size = 3000, 1000
	for i := range files {
		if err := w.WriteHeader(&tar.Header{Name: fmt.Sprintf("f%d", i), Mode: 0o644, Size: size}); err != nil {
			t.Fatal(err)
		}
		_, _ = w.Write(make([]byte, size))
	}
	_ = w.Close()
	r := f.do("PUT", "/api/v1/sandboxes/"+id+"/files/archive?path=d", archive.Bytes())
	var unpacked struct{ Entries, Failed int }
	if r.into(t, &unpacked); r.StatusCode != http.StatusOK || unpacked.Entries != files || unpacked.Failed != 0 {
		t.Errorf("%d MiB in a budget of 1: %d %.300s", archive.Len()>>20, r.StatusCode, r.text)
	}
}

// TestListsAreRead page by page: a long list is whole, ends at its limit with a cursor, and goes
// on behind it.
func TestListsAreRead(t *testing.T) {
	f := start(t, nil, nil)
	f.fill(450)
	c := f.public()
	var all []client.Sandbox
	whole := f.do("GET", "/api/v1/sandboxes", nil)
	whole.into(t, &all)
	if len(all) != 450 || whole.Header.Get("X-Next-Cursor") != "" {
		t.Errorf("%d sandboxes, cursor %q", len(all), whole.Header.Get("X-Next-Cursor"))
	}
	for _, limit := range []int{199, 200, 201, 400, 449, 450, 451} {
		var page, rest []client.Sandbox
		r := f.do("GET", fmt.Sprintf("/api/v1/sandboxes?limit=%d", limit), nil)
		r.into(t, &page)
		next := r.Header.Get("X-Next-Cursor")
		if len(page) != min(limit, 450) || (next != "") != (limit < 450) {
			t.Errorf("limit %d: %d sandboxes, cursor %q", limit, len(page), next)
		}
		if next == "" {
			continue
		}
		f.do("GET", "/api/v1/sandboxes?cursor="+next, nil).into(t, &rest)
		if len(page)+len(rest) != 450 || rest[0].ID != all[limit].ID {
			t.Errorf("limit %d: %d and %d sandboxes", limit, len(page), len(rest))
		}
	}
	if r := f.do("HEAD", "/api/v1/sandboxes?limit=300", nil); r.StatusCode != http.StatusOK || r.Header.Get("X-Next-Cursor") == "" {
		t.Errorf("HEAD: %d %v", r.StatusCode, r.Header)
	}
	if list, err := c.Sandboxes(t.Context()); err != nil || len(list) != 450 {
		t.Errorf("the client lists %d: %v", len(list), err)
	}
}

// TestFileListsBeyondTheBudget are refused until there is room again.
func TestFileListsBeyondTheBudget(t *testing.T) {
	f := start(t, withMemory(256<<10), nil)
	id := f.spawn().ID
	f.exec(id, map[string]any{"command": "mkdir d; cd d; i=0; while [ $i -lt 3000 ]; do : > file-$i; i=$((i+1)); done"})
	for _, path := range []string{"/files/list?path=d", "/files/glob?pattern=d/*"} {
		r := f.do("GET", "/api/v1/sandboxes/"+id+path, nil)
		if code, _ := r.refusal(t); r.StatusCode != http.StatusServiceUnavailable || code != "UNAVAILABLE" || r.Header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %.200s", path, r.StatusCode, r.text)
		}
	}
	if r := f.do("GET", "/api/v1/sandboxes/"+id+"/files/list?path=/workspace", nil); r.StatusCode != http.StatusOK {
		t.Errorf("a short list: %d %s", r.StatusCode, r.text)
	}
}
