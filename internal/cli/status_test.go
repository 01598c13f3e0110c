package cli

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// status runs the command on a data directory and gives what it prints and its exit code.
func status(t *testing.T, server, dataDir string, args ...string) (text string, exit int) {
	t.Helper()
	t.Setenv("STACYVM_CONFIG", "")
	t.Setenv("STACYVM_DATA_DIR", dataDir)
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	a := &app{stdout: out, stderr: os.Stderr}
	root := a.root()
	root.SetArgs(append([]string{"status", "--server", server}, args...))
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	said, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(said), a.exit
}

// TestStatus prints what a server tells: exit code 0 when nothing is wrong, else 1.
func TestStatus(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	well := client.Report{Status: "ok", Known: true, Sandboxes: map[string]int{"running": 3}, Workers: []client.WorkerReport{
		{Worker: client.Worker{ID: "w1", Status: "online", LastHeartbeat: at}, Asked: true, Answers: true},
	}}
	bad := well
	bad.Problems = []client.Problem{{About: "worker", Name: "w1", Since: &at, Detail: "a disk\x1b[2J is full", Fix: "make room"}}
	bad.Sandboxes = map[string]int{"error": 12}
	for range 12 {
		bad.NotWell = append(bad.NotWell, client.NotWell{ID: "sb-x", State: "error", Reason: "killed", Since: at, WorkerID: "w1", Detail: "by signal 9"})
	}
	bad.Happened = []client.Happening{{Type: "exec.completed", Count: 7, First: at, Last: at, SandboxID: "sb-y", Data: map[string]any{"reason": "oom"}}}
	for _, tt := range []struct {
		report client.Report
		exit   int
		want   []string
	}{
		{well, 0, []string{"all is well", "worker w1: online, answers, heartbeat " + stamp(at), "sandboxes: 3 running"}},
		{bad, 1, []string{"[problem] worker w1: a disk?[2J is full, since " + stamp(at), "fix: make room", "sb-x  error (killed)  on w1  by signal 9", "and 2 more",
			"7 × exec.completed since " + stamp(at) + ", last sb-y  reason=oom"}},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _ = json.NewEncoder(w).Encode(tt.report) }))
		text, exit := status(t, server.URL, t.TempDir())
		for _, want := range tt.want {
			if !strings.Contains(text, want) {
				t.Errorf("%q is missing in\n%s", want, text)
			}
		}
		if exit != tt.exit {
			t.Errorf("exit code %d, want %d", exit, tt.exit)
		}
		said, exit := status(t, server.URL, t.TempDir(), "--json")
		var read client.Report
		if err := json.Unmarshal([]byte(said), &read); err != nil || exit != tt.exit || len(read.Problems) != len(tt.report.Problems) {
			t.Errorf("exit code %d, %v:\n%s", exit, err, said)
		}
		server.Close()
	}
}

// TestStatusWithoutServer says that no server answers, and what this machine shows of it, within
// ten seconds also when a server takes the question and is silent.
func TestStatusWithoutServer(t *testing.T) {
	testneed.Patience(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "serve.lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	gone := httptest.NewServer(nil)
	gone.Close()
	text, exit := status(t, gone.URL, dir)
	if exit != 1 || !strings.Contains(text, "no server answers at "+gone.URL) || !strings.Contains(text, "no server runs on "+dir) {
		t.Errorf("exit code %d:\n%s", exit, text)
	}
	ended := make(chan struct{})
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-r.Context().Done():
		case <-ended:
		}
	}))
	defer silent.Close()
	defer close(ended)
	began := time.Now()
	text, exit = status(t, silent.URL, dir)
	if took := time.Since(began); took > 30*time.Second { // with room for a busy machine
		t.Errorf("a silent server is waited for for %v", took)
	}
	if exit != 1 || !strings.Contains(text, "no answer within 8s") {
		t.Errorf("exit code %d:\n%s", exit, text)
	}
	refusing := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = w.Write([]byte(`{"code":"UNAUTHORIZED","message":"a key is needed"}`))
	}))
	defer refusing.Close()
	if text, exit = status(t, refusing.URL, dir); exit != 1 || !strings.Contains(text, "set STACYVM_API_KEY") || strings.Contains(text, dir) {
		t.Errorf("exit code %d:\n%s", exit, text)
	}
	missing := filepath.Join(dir, "missing.yaml")
	root := (&app{stdout: os.Stdout, stderr: os.Stderr}).root()
	root.SetArgs([]string{"status", "--server", refusing.URL, "--config", missing})
	if err := root.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("a configuration that is not there: %v", err)
	}
}
