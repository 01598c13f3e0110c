package system

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/testneed"
	"github.com/stacyvm/stacyvm/test/harness"
)

// server is a server of the harness with a client, for one test.
type server struct {
	t *testing.T
	*harness.Server
	*client.Client
}

// start brings a server up and registers its end: every sandbox destroyed, everything stopped, and
// a host audit that must be empty.
func start(t *testing.T, env ...string) *server {
	t.Helper()
	testneed.GVisor(t)
	dir, err := os.MkdirTemp("", "stacyvm-system-") //nolint:usetesting // scripts/host-state.sh finds what it leaves by this name
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t}
	if s.Server, err = harness.New(dir, env...); err != nil {
		t.Fatal(err)
	}
	if s.Client, err = client.New(s.URL(), client.Options{Patience: 2 * time.Minute}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.end)
	s.up()
	return s
}

func (s *server) up() {
	s.t.Helper()
	if err := s.Up(); err != nil {
		s.t.Fatal(err)
	}
}

// stop ends the server as an operator would.
func (s *server) stop() { s.kill(syscall.SIGTERM) }

// kill sends the signal and waits for the end of the process.
func (s *server) kill(signal syscall.Signal) {
	s.t.Helper()
	if err := s.Kill(signal); err != nil {
		s.t.Error(err)
	}
}

// end destroys every sandbox and checks that nothing of this server is left on the host.
func (s *server) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if !s.Running() {
		s.up()
	}
	sandboxes, err := s.Sandboxes(ctx)
	if err != nil {
		s.t.Errorf("list at the end: %v", err)
	}
	for _, sandbox := range sandboxes {
		if err := s.Destroy(ctx, sandbox.ID); err != nil && client.CodeOf(err) != client.CodeNotFound {
			s.t.Errorf("destroy %s (%s %s): %v", sandbox.ID, sandbox.State, sandbox.Reason, err)
		}
	}
	s.auditSandboxes(0)
	s.stop()
	s.until(90*time.Second, "nothing of the server is left on the host", func() bool { return len(s.Leftovers()) == 0 })
	if s.t.Failed() {
		s.t.Logf("leftovers: %v\nend of the server's log:\n%s", s.Leftovers(), s.Log())
	}
	if err := os.RemoveAll(s.Dir); err != nil {
		s.t.Errorf("remove the data directory: %v", err)
	}
}

// auditSandboxes waits until the host holds exactly this many sandboxes of this server.
func (s *server) auditSandboxes(want int) {
	s.t.Helper()
	s.until(90*time.Second, fmt.Sprintf("the host holds %d sandboxes", want), func() bool {
		files, err := filepath.Glob(filepath.Join(s.DataDir(), "engines", "gvisor", "sandboxes", "*"))
		return err == nil && len(files) == want && len(s.Sentries()) == want
	})
}

// memory gives the server's resident memory in bytes.
func (s *server) memory() int64 {
	s.t.Helper()
	bytes, err := s.Memory()
	if err != nil {
		s.t.Fatal(err)
	}
	return bytes
}

// until polls the outside world, which offers no event to wait on.
func (s *server) until(limit time.Duration, what string, met func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(limit); !met(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not within %v: %s\n%s", limit, what, s.Log())
		}
	}
}

func (s *server) spawn(request client.SpawnRequest) client.Sandbox {
	s.t.Helper()
	sandbox, err := s.Spawn(s.t.Context(), request)
	if err != nil {
		s.t.Fatalf("spawn: %v\n%s", err, s.Log())
	}
	return sandbox
}

// shell runs a shell text and demands exit code 0.
func (s *server) shell(sandbox, text string) string {
	s.t.Helper()
	result, err := s.Exec(s.t.Context(), sandbox, client.ExecRequest{Command: text})
	if err != nil {
		s.t.Fatalf("exec %q: %v\n%s", text, err, s.Log())
	}
	if result.ExitCode != 0 {
		s.t.Fatalf("exec %q: exit code %d\n%s%s", text, result.ExitCode, result.Stdout, result.Stderr)
	}
	return result.Stdout
}
