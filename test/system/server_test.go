// Package system tests the built binary with real gVisor sandboxes under load, crashes, floods and hostile guests. It uses
// the public client and what the host shows, nothing from inside. STACYVM_BIN names the binary.
package system

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// server is one `stacyvm serve` on a data directory of its own. It can be killed and started again.
type server struct {
	t    *testing.T
	dir  string
	port int
	env  []string
	cmd  *exec.Cmd
	done chan struct{} // closed when cmd has ended
	log  *os.File
	*client.Client
}

// start brings a server up and registers its end: every sandbox destroyed, everything stopped, and a host audit that must
// be empty.
func start(t *testing.T, env ...string) *server {
	t.Helper()
	testneed.GVisor(t)
	dir, err := os.MkdirTemp("", "stacyvm-system-")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, dir: dir, port: freePort(t), env: env}
	s.log, err = os.Create(filepath.Join(dir, "server.log"))
	if err != nil {
		t.Fatal(err)
	}
	s.Client, err = client.New(fmt.Sprintf("http://127.0.0.1:%d", s.port), client.Options{Patience: 2 * time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.end)
	s.up()
	return s
}

func (s *server) binary() string {
	if path := os.Getenv("STACYVM_BIN"); path != "" {
		return path
	}
	path, err := filepath.Abs("../../bin/stacyvm")
	if err != nil {
		s.t.Fatal(err)
	}
	return path
}

// up starts the process and waits until it is ready.
func (s *server) up() {
	s.t.Helper()
	s.cmd = exec.Command(s.binary(), "serve")
	s.cmd.Env = append(append(os.Environ(),
		"STACYVM_DATA_DIR="+filepath.Join(s.dir, "data"),
		"STACYVM_SERVER_PORT="+strconv.Itoa(s.port),
		"STACYVM_CONFIG="), s.env...)
	s.cmd.Dir = s.dir // no configuration file by accident
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	s.done = done
	cmd := s.cmd
	go func() { _ = cmd.Wait(); close(done) }()
	s.until(30*time.Second, "the server is ready", func() bool {
		select {
		case <-done:
			s.t.Fatalf("the server ended at its start:\n%s", s.logTail())
		default:
		}
		response, err := http.Get(s.URL() + "/api/v1/ready")
		if err != nil {
			return false
		}
		_ = response.Body.Close()
		return response.StatusCode == http.StatusOK
	})
}

// stop ends the server as an operator would.
func (s *server) stop() { s.kill(syscall.SIGTERM) }

// kill sends the signal and waits for the end of the process.
func (s *server) kill(signal syscall.Signal) {
	s.t.Helper()
	_ = s.cmd.Process.Signal(signal)
	select {
	case <-s.done:
	case <-time.After(60 * time.Second):
		_ = s.cmd.Process.Kill()
		<-s.done
		s.t.Errorf("the server did not end within 60 s of %v:\n%s", signal, s.logTail())
	}
}

func (s *server) running() bool {
	select {
	case <-s.done:
		return false
	default:
		return true
	}
}

// end destroys every sandbox and checks that nothing of this server is left on the host.
func (s *server) end() {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if !s.running() {
		s.up()
	}
	sandboxes, err := s.Sandboxes(ctx)
	if err != nil {
		s.t.Errorf("list at the end: %v", err)
	}
	for _, sandbox := range sandboxes {
		if err := s.Destroy(ctx, sandbox.ID); err != nil && client.CodeOf(err) != "NOT_FOUND" {
			s.t.Errorf("destroy %s (%s %s): %v", sandbox.ID, sandbox.State, sandbox.Reason, err)
		}
	}
	s.auditSandboxes(0)
	s.stop()
	s.until(90*time.Second, "nothing of the server is left on the host", func() bool { return len(s.leftovers()) == 0 })
	if s.t.Failed() {
		s.t.Logf("leftovers: %v\nend of the server's log:\n%s", s.leftovers(), s.logTail())
	}
	_ = s.log.Close()
	if err := os.RemoveAll(s.dir); err != nil {
		s.t.Errorf("remove the data directory: %v", err)
	}
}

// auditSandboxes waits until the host holds exactly this many sandboxes of this server.
func (s *server) auditSandboxes(want int) {
	s.t.Helper()
	s.until(90*time.Second, fmt.Sprintf("the host holds %d sandboxes", want), func() bool { return len(s.sentries()) == want })
}

// processes gives the process ids whose program lies in this server's data directory, with their command lines.
func (s *server) processes() map[int]string {
	found := map[int]string{}
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		command, _ := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		exe, err := os.Readlink(filepath.Join("/proc", entry.Name(), "exe"))
		if err != nil || !strings.Contains(exe, "stacyvm-sentry") {
			continue
		}
		if strings.HasPrefix(exe, s.dir) || bytes.Contains(command, []byte(s.dir)) {
			found[pid] = strings.ReplaceAll(strings.TrimRight(string(command), "\x00"), "\x00", " ")
		}
	}
	return found
}

// launcher gives the launcher's process id, 0 without one.
func (s *server) launcher() int {
	for pid, command := range s.processes() {
		if strings.Contains(command, " launch ") {
			return pid
		}
	}
	return 0
}

// sentries gives the ids of the sandboxes that have a sentry process.
func (s *server) sentries() map[string]int {
	found := map[string]int{}
	for pid, command := range s.processes() {
		words := strings.Fields(command)
		if len(words) == 0 || !strings.Contains(command, " boot ") {
			continue
		}
		found[words[len(words)-1]] = pid
	}
	return found
}

// leftovers lists what of this server is on the host.
func (s *server) leftovers() []string {
	var found []string
	for pid, command := range s.processes() {
		found = append(found, fmt.Sprintf("process %d %s", pid, command))
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, s.dir) {
			found = append(found, "mount "+strings.TrimSpace(line))
		}
	}
	for _, pattern := range []string{"/sys/fs/cgroup/*/stacyvm*/sb-*", "/sys/fs/cgroup/stacyvm*/sb-*"} {
		groups, _ := filepath.Glob(pattern)
		for _, group := range groups {
			found = append(found, "cgroup "+group)
		}
	}
	return found
}

// memory gives the server's resident memory in bytes.
func (s *server) memory() int64 {
	s.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				s.t.Fatal(err)
			}
			return kib << 10
		}
	}
	s.t.Fatal("no VmRSS")
	return 0
}

func (s *server) logTail() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "server.log"))
	return string(text[max(0, len(text)-4000):])
}

// until polls the outside world, which offers no event to wait on.
func (s *server) until(limit time.Duration, what string, met func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(limit); !met(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not within %v: %s\n%s", limit, what, s.logTail())
		}
	}
}

func (s *server) spawn(request client.SpawnRequest) client.Sandbox {
	s.t.Helper()
	sandbox, err := s.Spawn(s.t.Context(), request)
	if err != nil {
		s.t.Fatalf("spawn: %v\n%s", err, s.logTail())
	}
	return sandbox
}

// shell runs a shell text and demands exit code 0.
func (s *server) shell(sandbox, text string) string {
	s.t.Helper()
	result, err := s.Exec(s.t.Context(), sandbox, client.ExecRequest{Command: text})
	if err != nil {
		s.t.Fatalf("exec %q: %v\n%s", text, err, s.logTail())
	}
	if result.ExitCode != 0 {
		s.t.Fatalf("exec %q: exit code %d\n%s%s", text, result.ExitCode, result.Stdout, result.Stderr)
	}
	return result.Stdout
}

func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}
