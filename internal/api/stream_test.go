package api_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/api"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// frame is one line of a stream with everything that one may hold.
type frame struct {
	api.Frame
	ExitCode *int   `json:"exit_code"`
	Duration string `json:"duration"`
	SHA256   string `json:"stdout_sha256"`
	TimedOut bool   `json:"timed_out"`
	keys     map[string]any
}

func parse(t *testing.T, line []byte) frame {
	t.Helper()
	var f frame
	if err := json.Unmarshal(line, &f); err != nil {
		t.Fatalf("%v in %q", err, line)
	}
	if err := json.Unmarshal(line, &f.keys); err != nil {
		t.Fatal(err)
	}
	return f
}

func frames(t *testing.T, text string) (list []frame) {
	t.Helper()
	for line := range strings.Lines(text) {
		list = append(list, parse(t, []byte(line)))
	}
	return list
}

// joined puts a stream's text together.
func joined(list []frame, stream string) string {
	var text strings.Builder
	for _, f := range list {
		if f.Stream == stream && f.Data != nil {
			text.WriteString(*f.Data)
		}
	}
	return text.String()
}

// open begins a request whose answer is read as it comes.
func (f *fixture) open(ctx context.Context, method, path string, body any) *http.Response {
	f.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		f.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(ctx, method, f.server.URL+path, bytes.NewReader(text))
	if err != nil {
		f.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := f.client.Do(request)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = answer.Body.Close() })
	return answer
}

func TestExecStream(t *testing.T) {
	f := start(t, nil, nil)
	id := f.spawn().ID
	r := f.do("POST", "/api/v1/sandboxes/"+id+"/exec", `{"command":"echo out; echo err >&2; exit 4","stream":true}`)
	if r.StatusCode != 200 || r.Header.Get("Content-Type") != "application/x-ndjson" || r.Header.Get("Cache-Control") != "no-cache" || r.Header.Get("X-Process-ID") == "" {
		t.Fatalf("%d %v", r.StatusCode, r.Header)
	}
	list := frames(t, r.text)
	last := list[len(list)-1]
	if joined(list, "stdout") != "out\n" || joined(list, "stderr") != "err\n" {
		t.Errorf("output %s", r.text)
	}
	if last.ExitCode == nil || *last.ExitCode != 4 || last.Stream != "stdout" || *last.Data != "" || last.Duration == "" {
		t.Errorf("last line %+v", last.keys)
	}
	for _, line := range list[:len(list)-1] {
		if len(line.keys) != 2 || line.keys["stream"] == nil || line.keys["data"] == nil {
			t.Errorf("line %v", line.keys)
		}
	}
}

func TestStreamRefusalsAreOrdinaryAnswers(t *testing.T) {
	f := start(t, nil, nil)
	id := f.spawn().ID
	for path, c := range map[string]struct {
		body string
		want int
	}{
		"/sandboxes/sb-000000000000000000000000/exec": {`{"command":"true","stream":true}`, 404},
		"/sandboxes/" + id + "/exec":                  {`{"command":"true","stream":true,"timeout":"-1s"}`, 429},
	} {
		if r := f.do("POST", "/api/v1"+path, c.body); r.StatusCode != c.want || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: %d %v %s", path, r.StatusCode, r.Header, r.text)
		}
	}
}

func TestStreamOfACommandThatRunsTooLong(t *testing.T) {
	f := start(t, nil, nil)
	id := f.spawn().ID
	list := frames(t, f.do("POST", "/api/v1/sandboxes/"+id+"/exec", `{"command":"echo before; sleep 100","timeout":"200ms","stream":true}`).text)
	last := list[len(list)-1]
	if joined(list, "stdout") != "before\n" || joined(list, "stderr") != "exec timeout: "+id || !last.TimedOut || *last.ExitCode != 124 {
		t.Errorf("frames %+v", list)
	}
}

// TestStreamComesAsItIsPrinted: a line is there while the command still runs, and a character that
// is printed in two halves comes in one line.
func TestStreamComesAsItIsPrinted(t *testing.T) {
	f := start(t, nil, nil)
	id := f.spawn().ID
	answer := f.open(t.Context(), "POST", "/api/v1/sandboxes/"+id+"/exec", map[string]any{
		"command": `printf 'a\303'; read x; printf '\251b'; read x; printf '\342\202'`, "stdin": true, "stream": true, "id": "halves"})
	lines := bufio.NewScanner(answer.Body)
	next := func() frame {
		t.Helper()
		if !lines.Scan() {
			t.Fatalf("the stream ended: %v", lines.Err())
		}
		return parse(t, lines.Bytes())
	}
	enter := func() {
		t.Helper()
		if r := f.do("POST", "/api/v1/sandboxes/"+id+"/processes/halves/input", `{"data":"\n"}`); r.StatusCode != 200 {
			t.Fatal(r.text)
		}
	}
	for i, want := range []string{"a", "éb", "\uFFFD"} {
		if got := next(); got.Data == nil || *got.Data != want {
			t.Errorf("line %d: %v, want %q", i, got.keys, want)
		}
		if i < 2 {
			enter()
		}
	}
	if last := next(); last.ExitCode == nil {
		t.Errorf("last line %v", last.keys)
	}
}

// TestASlowReaderLosesNothing reads a tenth of the output byte by byte, and with it holds the
// command up.
func TestASlowReaderLosesNothing(t *testing.T) {
	testneed.Patience(t)
	f := start(t, nil, nil)
	id := f.spawn().ID
	const size = 10 << 20
	answer := f.open(t.Context(), "POST", "/api/v1/sandboxes/"+id+"/exec", map[string]any{
		"command": "head -c 10485760 /dev/urandom", "stream": true, "encoding": "base64"})
	slow := io.MultiReader(&oneByOne{answer.Body, size / 10}, answer.Body)
	sum, count, last := sha256.New(), 0, frame{}
	for decoder := json.NewDecoder(slow); ; {
		var raw json.RawMessage
		if err := decoder.Decode(&raw); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("after %d bytes: %v", count, err)
		}
		last = parse(t, raw)
		sum.Write(last.DataBase64)
		count += len(last.DataBase64)
	}
	if count != size || last.SHA256 != hex.EncodeToString(sum.Sum(nil)) || last.ExitCode == nil {
		t.Errorf("%d bytes, last line %v", count, last.keys)
	}
}

// oneByOne gives single bytes, so many of them.
type oneByOne struct {
	io.Reader
	left int
}

func (r *oneByOne) Read(p []byte) (int, error) {
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.Reader.Read(p[:1])
	r.left -= n
	return n, err
}

// TestACommandOutlivesItsReader cuts the stream and finds the rest.
func TestACommandOutlivesItsReader(t *testing.T) {
	f := start(t, nil, nil)
	id := f.spawn().ID
	ctx, cut := context.WithCancel(t.Context())
	answer := f.open(ctx, "POST", "/api/v1/sandboxes/"+id+"/exec", map[string]any{
		"command": "echo one; read x; echo two; exit 5", "stdin": true, "stream": true})
	process := answer.Header.Get("X-Process-ID")
	if line, err := bufio.NewReader(answer.Body).ReadString('\n'); err != nil || !strings.Contains(line, "one") {
		t.Fatalf("%q %v", line, err)
	}
	cut()
	root := "/api/v1/sandboxes/" + id + "/processes/" + process
	var p api.Process
	f.do("GET", root, nil).into(t, &p)
	if p.State != "running" {
		t.Fatalf("process %+v", p)
	}
	if r := f.do("POST", root+"/input", `{"data":"\n","offset":0}`); r.text != "{\"received\":1}\n" {
		t.Fatal(r.text)
	}
	if r := f.do("POST", root+"/input", `{"data":"\n","offset":0}`); r.text != "{\"received\":1}\n" { // a repeat
		t.Log(r.StatusCode, r.text) // the process may have closed its input by now
	}
	f.do("GET", root+"?wait=true", nil).into(t, &p)
	if p.State != "exited" || p.ExitCode != 5 || p.StdoutBytes != 8 {
		t.Errorf("process %+v", p)
	}
	for query, want := range map[string]string{"": "one\ntwo\n", "?stdout_offset=4": "two\n", "?stdout_offset=8": "", "?stdout_offset=6&follow=false": "o\n"} {
		list := frames(t, f.do("GET", root+"/output"+query, nil).text)
		last := list[len(list)-1]
		if joined(list, "stdout") != want || last.ExitCode == nil || *last.ExitCode != 5 {
			t.Errorf("output%s: %+v", query, list)
		}
	}
}

func TestOutputSoFar(t *testing.T) {
	f := start(t, nil, nil)
	id := f.spawn().ID
	root := "/api/v1/sandboxes/" + id + "/processes"
	var p api.Process
	f.do("POST", root, map[string]any{"command": "echo ready; read x", "stdin": true}).into(t, &p)
	answer := f.open(t.Context(), "GET", root+"/"+p.ID+"/output?encoding=base64", nil)
	lines := bufio.NewReader(answer.Body)
	line, err := lines.ReadBytes('\n')
	for err == nil && parse(t, line).Type == "keepalive" { // the answer began before the process said anything
		line, err = lines.ReadBytes('\n')
	}
	if got := parse(t, line); err != nil || string(got.DataBase64) != "ready\n" || *got.Offset != 0 {
		t.Fatalf("%s %v", line, err)
	}
	r := f.do("GET", root+"/"+p.ID+"/output?follow=false", nil)
	if list := frames(t, r.text); joined(list, "stdout") != "ready\n" || list[len(list)-1].ExitCode != nil {
		t.Errorf("so far: %s", r.text)
	}
	if r := f.do("HEAD", root+"/"+p.ID+"/output", nil); r.StatusCode != 200 || r.text != "" {
		t.Errorf("HEAD: %d %q", r.StatusCode, r.text)
	}
}

// TestDestroyUnderAStream: a stream that cannot go on says so, and does not look like one that
// ended well.
func TestDestroyUnderAStream(t *testing.T) {
	f := start(t, nil, nil)
	id := f.spawn().ID
	answer := f.open(t.Context(), "POST", "/api/v1/sandboxes/"+id+"/exec", map[string]any{"command": "echo one; sleep 1000", "stream": true})
	reader := bufio.NewReader(answer.Body)
	if _, err := reader.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if r := f.do("DELETE", "/api/v1/sandboxes/"+id, nil); r.StatusCode != 200 {
		t.Fatal(r.text)
	}
	rest, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	list := frames(t, string(rest))
	last := list[len(list)-1]
	if last.Type != "error" || last.Code == "" || last.Stream != "stderr" || last.ExitCode != nil {
		t.Errorf("rest %s", rest)
	}
}
