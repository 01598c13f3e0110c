package api_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/api"
)

func TestFiles(t *testing.T) {
	f := start(t, nil, nil)
	root := "/api/v1/sandboxes/" + f.spawn().ID + "/files"
	good := func(want, method, path string, body any) response {
		t.Helper()
		r := f.do(method, root+path, body)
		if r.StatusCode != http.StatusOK || want != "" && r.text != want+"\n" {
			t.Fatalf("%s %s: %d %s", method, path, r.StatusCode, r.text)
		}
		return r
	}
	raw := []byte("\x00\xff\xfe no text\n")
	good(`{"status":"written"}`, "POST", "", `{"path":"deep/er/text","content":"grüße"}`)
	good(`{"status":"written"}`, "POST", "", map[string]string{"path": "raw", "content_base64": base64.StdEncoding.EncodeToString(raw), "mode": "0600"})
	good(`{"status":"written"}`, "POST", "", `{"path":"empty","content":""}`)
	good("", "PUT", "?path=up&mode=755", raw)
	for path, want := range map[string]string{"deep/er/text": "grüße", "raw": string(raw), "up": string(raw), "empty": ""} {
		r := good("", "GET", "?path="+path, nil)
		if r.text != want || r.Header.Get("Content-Type") != "application/octet-stream" || r.Header.Get("Content-Disposition") != "attachment" {
			t.Errorf("%s: %q %v", path, r.text, r.Header)
		}
	}
	if r := f.do("HEAD", root+"?path=raw", nil); r.StatusCode != 200 || r.ContentLength != int64(len(raw)) {
		t.Errorf("HEAD: %d %v", r.StatusCode, r.Header)
	}

	var info api.FileInfo
	good("", "GET", "/stat?path=raw", nil).into(t, &info)
	if info.Mode != "600" || info.Size != uint64(len(raw)) || info.IsDir || !strings.HasSuffix(info.Path, "/workspace/raw") || !strings.HasSuffix(info.ModTime, "Z") {
		t.Errorf("stat %+v", info)
	}
	good(`{"status":"chmod applied"}`, "POST", "/chmod", `{"path":"raw","mode":"0640"}`)
	good(`{"status":"moved"}`, "POST", "/move", `{"old_path":"raw","new_path":"new/place"}`)
	good("", "GET", "/stat?path=new/place", nil).into(t, &info)
	if info.Mode != "640" {
		t.Errorf("mode after chmod %q", info.Mode)
	}
	good(`{"status":"made"}`, "POST", "/mkdir", `{"path":"a/b"}`)
	var infos []api.FileInfo
	good("", "GET", "/list?path=/workspace", nil).into(t, &infos)
	var names []string
	for _, info := range infos {
		names = append(names, info.Path[strings.LastIndex(info.Path, "/")+1:])
	}
	if !slices.Equal(names, []string{"a", "deep", "empty", "new", "up"}) {
		t.Errorf("list %v", names)
	}
	good("[]", "GET", "/list?path=/workspace/a/b", nil)
	good("", "GET", "/list", nil)
	good("[]", "GET", "/glob?pattern="+url.QueryEscape("/workspace/*.none"), nil)
	if r := good("", "GET", "/glob?pattern="+url.QueryEscape("/workspace/**/text"), nil); !strings.Contains(r.text, "deep/er/text") {
		t.Errorf("glob %s", r.text)
	}
	good(`{"status":"deleted"}`, "DELETE", "?path=up", nil)
	if r := f.do("DELETE", root+"?path=deep", nil); r.StatusCode < 400 || r.StatusCode >= 500 {
		t.Errorf("delete a full directory: %d %s", r.StatusCode, r.text)
	}
	good(`{"status":"deleted"}`, "DELETE", "?path=deep&recursive=true", nil)
}

func TestLargeFilesStream(t *testing.T) {
	f := start(t, nil, nil)
	root := f.server.URL + "/api/v1/sandboxes/" + f.spawn().ID + "/files?path=large"
	const size = 40 << 20 // over what a JSON body may have
	sent := sha256.New()
	request, err := http.NewRequestWithContext(t.Context(), "PUT", root, io.TeeReader(io.LimitReader(rand.Reader, size), sent))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := f.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = answer.Body.Close()
	if answer.StatusCode != 200 {
		t.Fatalf("upload: %d", answer.StatusCode)
	}
	back := f.open(t.Context(), "GET", strings.TrimPrefix(root, f.server.URL), nil)
	got := sha256.New()
	n, err := io.Copy(got, back.Body)
	if err != nil || n != size || back.ContentLength != size || !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestAnUploadThatBreaksOffLeavesTheOldFile: whole or not at all, however the body is framed.
func TestAnUploadThatBreaksOffLeavesTheOldFile(t *testing.T) {
	f := start(t, nil, nil)
	root := "/api/v1/sandboxes/" + f.spawn().ID + "/files?path=kept"
	if r := f.do("PUT", root, []byte("old")); r.StatusCode != 200 {
		t.Fatal(r.text)
	}
	for name, framing := range map[string]string{
		"length": "Content-Length: 100000\r\n\r\n" + strings.Repeat("n", 70_000),
		"chunks": "Transfer-Encoding: chunked\r\n\r\n10000\r\n" + strings.Repeat("n", 0x10000) + "\r\n",
	} {
		conn, err := net.Dial("tcp", strings.TrimPrefix(f.server.URL, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: localhost\r\n%s", root, framing)
		_ = conn.(*net.TCPConn).CloseWrite()
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err == nil && answer.StatusCode < 400 {
			t.Errorf("%s: answered %d", name, answer.StatusCode)
		}
		_ = conn.Close()
		if r := f.do("GET", root, nil); r.text != "old" {
			t.Errorf("%s: the file has %d bytes: %.20q", name, len(r.text), r.text)
		}
	}
}

// TestADownloadThatBreaksOffIsNoShortFile ends the guest while its file is read.
func TestADownloadThatBreaksOffIsNoShortFile(t *testing.T) {
	f := start(t, nil, nil)
	id := f.spawn().ID
	f.exec(id, map[string]any{"command": "head -c 67108864 /dev/zero > large"})
	answer := f.open(t.Context(), "GET", "/api/v1/sandboxes/"+id+"/files?path=large", nil)
	if _, err := io.ReadFull(answer.Body, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if r := f.do("DELETE", "/api/v1/sandboxes/"+id, nil); r.StatusCode != 200 {
		t.Fatal(r.text)
	}
	if n, err := io.Copy(io.Discard, answer.Body); err == nil {
		t.Errorf("%d bytes and no error", n)
	}
}

func TestLogsAndStats(t *testing.T) {
	f := start(t, nil, nil)
	root := "/api/v1/sandboxes/" + f.spawn().ID
	if r := f.do("GET", root+"/logs", nil); r.text != "[]\n" {
		t.Errorf("no logs: %s", r.text)
	}
	f.do("POST", root+"/exec", `{"command":"for i in 1 2 3; do echo line $i; done"}`)
	var lines []string
	f.do("GET", root+"/logs?lines=2", nil).into(t, &lines)
	if !slices.Equal(lines, []string{"line 2", "line 3"}) {
		t.Errorf("logs %q", lines)
	}
	var stats api.Stats
	f.do("GET", root+"/stats", nil).into(t, &stats)
	if !stats.Supported || stats.CPUPercent == nil || *stats.CPUPercent < 0 || stats.MemoryBytes == nil {
		t.Errorf("stats %+v", stats)
	}
}
