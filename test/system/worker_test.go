package system

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/test/harness"
)

// TestRemoteWorker: a control plane on SQLite that runs nothing itself, and a worker with real
// sandboxes. They are used as local ones are; the worker's process may be killed, and stopped, and
// nothing of them changes but who watches over them.
func TestRemoteWorker(t *testing.T) {
	t.Parallel()
	token := "STACYVM_AUTH_WORKER_TOKEN=token-0123456789abcdef0123456789abcdef"
	s := start(t, token, "STACYVM_SERVER_WORKER=false", "STACYVM_PROVIDERS_GVISOR_ENABLED=false")
	w := s.remoteWorker("far-away", token)
	sandbox := s.spawn(client.SpawnRequest{})
	if sandbox.WorkerID != w.ID {
		t.Fatalf("%+v", sandbox)
	}
	booted := s.uptime(sandbox.ID)

	content := make([]byte, 8<<20)
	_, _ = rand.Read(content)
	if _, err := s.Upload(t.Context(), sandbox.ID, "/workspace/big", bytes.NewReader(content), client.UploadOptions{}); err != nil {
		t.Fatal(err)
	}
	sum := fmt.Sprintf("%x", sha256.Sum256(content))
	if out := s.shell(sandbox.ID, "sha256sum < /workspace/big"); !strings.HasPrefix(out, sum) {
		t.Errorf("uploaded %s, arrived %s", sum, out)
	}
	const lines = 400
	process, err := s.Start(t.Context(), sandbox.ID, client.ExecRequest{Command: fmt.Sprintf("for i in $(seq %d); do echo line $i; sleep 0.05; done", lines)})
	if err != nil {
		t.Fatal(err)
	}
	for _, signal := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		if err := w.Kill(signal); err != nil {
			t.Error(err)
		}
		_, err := s.Exec(t.Context(), sandbox.ID, client.ExecRequest{Command: "true"})
		// it may read unhealthy already
		if code := client.CodeOf(err); code != client.CodeUnavailable && code != client.CodeConflict {
			t.Errorf("a command without the worker: %v", err)
		}
		if err := w.Up(); err != nil {
			t.Fatal(err)
		}
		s.until(time.Minute, "the sandbox answers again", func() bool {
			result, err := s.Exec(t.Context(), sandbox.ID, client.ExecRequest{Command: "true"})
			return err == nil && result.ExitCode == 0
		})
		if up := s.uptime(sandbox.ID); up <= booted {
			t.Errorf("the sandbox started anew: up %v, then %v", booted, up)
		} else {
			booted = up
		}
	}
	var got, want strings.Builder
	for i := range lines {
		fmt.Fprintf(&want, "line %d\n", i+1)
	}
	if exit := s.readFor(sandbox.ID, process.ID, &got, 2*time.Minute); exit == nil || exit.Code != 0 || got.String() != want.String() {
		t.Errorf("exit %+v, %d bytes of output, want %d", exit, got.Len(), want.Len())
	}
	body, err := s.Download(t.Context(), sandbox.ID, "/workspace/big")
	if err != nil {
		t.Fatal(err)
	}
	back, err := io.ReadAll(body)
	body.Close()
	if err != nil || !bytes.Equal(back, content) {
		t.Errorf("downloaded %d bytes, %v", len(back), err)
	}
	if err := s.Destroy(t.Context(), sandbox.ID); err != nil {
		t.Error(err)
	}
	s.until(time.Minute, "nothing is left on the worker", func() bool { return len(w.Sentries()) == 0 })
}

// remoteWorker starts a worker process of this server, with the gVisor engine. It ends with the
// test, and leaves nothing.
func (s *server) remoteWorker(id string, env ...string) *harness.Worker {
	s.t.Helper()
	dir, err := os.MkdirTemp("", "stacyvm-system-")
	if err != nil {
		s.t.Fatal(err)
	}
	w, err := harness.NewWorker(dir, id, append([]string{"STACYVM_WORKER_CONTROL_PLANE_URL=" + s.URL()}, env...)...)
	if err != nil {
		s.t.Fatal(err)
	}
	port, err := harness.FreePort()
	if err != nil {
		s.t.Fatal(err)
	}
	w.Listen = fmt.Sprintf("127.0.0.1:%d", port)
	w.Known = func() bool {
		known, err := s.Worker(s.t.Context(), id)
		return err == nil && known.Status == "online"
	}
	s.t.Cleanup(func() {
		if err := w.Stop(); err != nil {
			s.t.Error(err)
		}
		s.until(time.Minute, "nothing of the worker is left on the host", func() bool { return len(w.Leftovers()) == 0 })
		if err := os.RemoveAll(dir); err != nil {
			s.t.Error(err)
		}
	})
	if err := w.Up(); err != nil {
		s.t.Fatal(err)
	}
	return w
}

// uptime is how long the sandbox has been up.
func (s *server) uptime(sandbox string) time.Duration {
	s.t.Helper()
	seconds, err := strconv.ParseFloat(strings.Fields(s.shell(sandbox, "cat /proc/uptime"))[0], 64)
	if err != nil {
		s.t.Fatal(err)
	}
	return time.Duration(seconds * float64(time.Second))
}
