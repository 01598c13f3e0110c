package guest_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/guest/agent"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// sandbox is an agent in this process that is reached over socket pairs.
type sandbox struct {
	*guest.Transport
	agent *agent.Agent
	root  string
	dial  func(context.Context) (net.Conn, error)

	mu   sync.Mutex
	last net.Conn
}

func newSandbox(t testing.TB, secret guest.Secret) *sandbox {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	a, err := agent.New(agent.Config{Root: root, SpillDir: filepath.Join(dir, "spill"), Version: "test"}, guest.Boot{Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	s := &sandbox{agent: a, root: root}
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	s.dial = func(context.Context) (net.Conn, error) {
		ours, theirs, err := socketPair()
		if err == nil {
			s.mu.Lock()
			s.last = theirs
			s.mu.Unlock()
			served.Go(func() { _ = a.ServeConn(ctx, theirs) })
		}
		return ours, err
	}
	s.Transport = guest.NewTransport(s.dial, secret)
	t.Cleanup(func() {
		s.Close()
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		served.Wait()
	})
	return s
}

// cut breaks the newest connection.
func (s *sandbox) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last != nil {
		_ = s.last.Close()
	}
}

func (s *sandbox) client(scope guest.Scope) *guest.Client { return guest.NewClient(s.Conn(scope)) }

func socketPair() (net.Conn, net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socketpair")
		conns[i], err = net.FileConn(file)
		_ = file.Close()
		if err != nil {
			return nil, nil, err
		}
	}
	return conns[0], conns[1], nil
}

func shell(text string) stacyvm.Command {
	return stacyvm.Command{Argv: []string{"/bin/sh", "-c", text}, Lossless: true}
}

// collect reads an output to its end.
func collect(t testing.TB, o *guest.Output) (stdout, stderr []byte, exit *stacyvm.Exit) {
	t.Helper()
	defer o.Close()
	for {
		event, err := o.Next(t.Context())
		if errors.Is(err, io.EOF) {
			return stdout, stderr, exit
		}
		if err != nil {
			t.Fatal(err)
		}
		if event.Stream == stacyvm.Stderr {
			stderr = append(stderr, event.Data...)
		} else {
			stdout = append(stdout, event.Data...)
		}
		exit = event.Exit
	}
}

func wantCode(t *testing.T, what string, err error, want stacyvm.Code) {
	t.Helper()
	if stacyvm.CodeOf(err) != want {
		t.Errorf("%s: %q, want %q (%v)", what, stacyvm.CodeOf(err), want, err)
	}
}

func TestCommandsOfARealAgent(t *testing.T) {
	s := newSandbox(t, guest.NewSecret())
	c := s.client(guest.ScopeExec)
	o, err := c.Run(t.Context(), shell("echo out; echo err >&2; exit 7"))
	if err != nil {
		t.Fatal(err)
	}
	stdout, stderr, exit := collect(t, o)
	if string(stdout) != "out\n" || string(stderr) != "err\n" || exit == nil || exit.Code != 7 {
		t.Errorf("%q, %q, %+v", stdout, stderr, exit)
	}
	if sum := sha256.Sum256(stdout); !bytes.Equal(exit.StdoutSHA256, sum[:]) {
		t.Errorf("the sum of the output is %x", exit.StdoutSHA256)
	}

	command := stacyvm.Command{ProcessID: "cat", Argv: []string{"cat"}, Stdin: true, Label: "the cat"}
	started, err := c.Start(t.Context(), command)
	if err != nil || started.ID != "cat" || !started.StdinOpen || started.Exit != nil {
		t.Fatalf("%+v, %v", started, err)
	}
	at := uint64(0)
	for range 2 { // the same bytes again are dropped
		if received, err := c.Input(t.Context(), "cat", []byte("meow"), &at, false); err != nil || received != 4 {
			t.Errorf("received %d, %v", received, err)
		}
	}
	wantCode(t, "resize without a terminal", c.Resize(t.Context(), "cat", stacyvm.Terminal{Rows: 1, Cols: 1}), stacyvm.CodeConflict)
	if _, err := c.Input(t.Context(), "cat", nil, nil, true); err != nil {
		t.Error(err)
	}
	ended, err := c.Wait(t.Context(), "cat")
	if err != nil || ended.Exit.Code != 0 || ended.Stdout.Bytes != 4 || ended.Label != "the cat" || ended.EndedAt.Before(ended.StartedAt) {
		t.Errorf("%+v, %v", ended, err)
	}
	wantCode(t, "signal to an ended process", c.Signal(t.Context(), "cat", 9), stacyvm.CodeConflict)
	list, err := c.Processes(t.Context())
	if err != nil || len(list) != 2 || list[1].ID != "cat" {
		t.Errorf("%+v, %v", list, err)
	}
	if o, err = c.Attach(t.Context(), "cat", 2, 0, false); err != nil {
		t.Fatal(err)
	}
	if stdout, _, exit := collect(t, o); string(stdout) != "ow" || exit == nil {
		t.Errorf("attached: %q, %+v", stdout, exit)
	}
	_, err = c.Attach(t.Context(), "nobody", 0, 0, true)
	wantCode(t, "attach to nothing", err, stacyvm.CodeNotFound)
	_, err = c.Wait(t.Context(), "nobody")
	wantCode(t, "wait for nothing", err, stacyvm.CodeNotFound)
}

// TestOutputSurvivesItsConnections cuts the connection again and again while a program writes.
func TestOutputSurvivesItsConnections(t *testing.T) {
	s := newSandbox(t, guest.NewSecret())
	c := s.client(guest.ScopeExec)
	command := shell("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done")
	command.ProcessID = "writer"
	if _, err := c.Start(t.Context(), command); err != nil {
		t.Fatal(err)
	}
	var all []byte
	cuts := 0
	for done := false; !done; {
		o, err := c.Attach(t.Context(), "writer", uint64(len(all)), 0, true)
		for events := 0; err == nil; events++ {
			var event stacyvm.OutputEvent
			if event, err = o.Next(t.Context()); err == nil {
				all = append(all, event.Data...)
			}
			if events == 3 && cuts < 30 {
				cuts++
				s.cut()
			}
		}
		done = errors.Is(err, io.EOF)
		if !done {
			wantCode(t, "a cut stream", err, stacyvm.CodeUnavailable)
		}
		if o != nil {
			_ = o.Close()
		}
	}
	ended, err := c.Wait(t.Context(), "writer")
	if stacyvm.CodeOf(err) == stacyvm.CodeUnavailable {
		ended, err = c.Wait(t.Context(), "writer") // the last cut may be noticed only now
	}
	if err != nil {
		t.Fatal(err)
	}
	if sum := sha256.Sum256(all); !bytes.Equal(sum[:], ended.Exit.StdoutSHA256) || !strings.HasSuffix(string(all), "line 19999\n") {
		t.Errorf("%d bytes after %d cuts are not what was written", len(all), cuts)
	}
}

func TestFilesAndLogsOfARealAgent(t *testing.T) {
	s := newSandbox(t, guest.NewSecret())
	files := s.client(guest.ScopeFiles)
	if _, err := files.WriteFile(t.Context(), "made/by/test", 0o600, "", strings.NewReader("content")); err != nil {
		t.Fatal(err)
	}
	if content, err := os.ReadFile(filepath.Join(s.root, "workspace/made/by/test")); err != nil || string(content) != "content" {
		t.Errorf("%q, %v", content, err)
	}
	o, err := s.client(guest.ScopeExec).Run(t.Context(), shell("echo one; echo two"))
	if err != nil {
		t.Fatal(err)
	}
	collect(t, o)
	lines, err := s.client(guest.ScopeLogs).Tail(t.Context(), 1)
	if err != nil || len(lines) != 1 || lines[0] != "two" {
		t.Errorf("%q, %v", lines, err)
	}
	stats, err := files.Stats(t.Context())
	if err != nil || stats.MemoryLimitBytes == 0 {
		t.Errorf("%+v, %v", stats, err)
	}
}

func TestSecrets(t *testing.T) {
	secret, next := guest.NewSecret(), guest.NewSecret()
	s := newSandbox(t, secret)
	stranger := guest.NewTransport(s.dial, next)
	defer stranger.Close()
	_, err := guest.NewClient(stranger.Conn(guest.ScopeExec)).Ping(t.Context())
	wantCode(t, "a stranger", err, stacyvm.CodeUnavailable)
	c := s.client(guest.ScopeExec)
	first, err := c.Ping(t.Context())
	if err != nil || first == "" {
		t.Fatalf("%q, %v", first, err)
	}
	if err := c.Rotate(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	_, err = c.Ping(t.Context())
	wantCode(t, "the old secret", err, stacyvm.CodeUnavailable)
	if again, err := guest.NewClient(stranger.Conn(guest.ScopeExec)).Ping(t.Context()); err != nil || again != first {
		t.Errorf("the new secret: %q, %v", again, err)
	}
}

// TestStalledUploadsStopNobody writes to ports whose programs do not read.
func TestStalledUploadsStopNobody(t *testing.T) {
	s := newSandbox(t, guest.NewSecret())
	c := s.client(guest.ScopeExec)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	for range 8 {
		conn, err := c.Connect(t.Context(), uint16(listener.Addr().(*net.TCPAddr).Port))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		// Until nothing more fits anywhere on the way.
		for buffer := make([]byte, 256<<10); err == nil; {
			_ = conn.SetWriteDeadline(time.Now().Add(200 * time.Millisecond))
			_, err = conn.Write(buffer)
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := s.client(guest.ScopeFiles).WriteFile(ctx, "/f", 0, "", strings.NewReader(strings.Repeat("x", 1<<20))); err != nil {
		t.Errorf("a write beside stalled uploads: %v", err)
	}
}

// BenchmarkRun is the round trip of a command that does nothing, over a socket pair.
func BenchmarkRun(b *testing.B) {
	c := newSandbox(b, guest.NewSecret()).client(guest.ScopeExec)
	for b.Loop() {
		o, err := c.Run(b.Context(), stacyvm.Command{Argv: []string{"/bin/true"}})
		if err != nil {
			b.Fatal(err)
		}
		if _, _, exit := collect(b, o); exit == nil || exit.Code != 0 {
			b.Fatalf("%+v", exit)
		}
	}
}

// BenchmarkPing is the round trip without a process.
func BenchmarkPing(b *testing.B) {
	c := newSandbox(b, guest.NewSecret()).client(guest.ScopeExec)
	for b.Loop() {
		if _, err := c.Ping(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWriteFile is 64 MiB into a file.
func BenchmarkWriteFile(b *testing.B) {
	c := newSandbox(b, guest.NewSecret()).client(guest.ScopeFiles)
	content := make([]byte, 64<<20)
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		if _, err := c.WriteFile(b.Context(), "/f", 0, "", bytes.NewReader(content)); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadFile is 64 MiB out of a file.
func BenchmarkReadFile(b *testing.B) {
	c := newSandbox(b, guest.NewSecret()).client(guest.ScopeFiles)
	content := make([]byte, 64<<20)
	if _, err := c.WriteFile(b.Context(), "/f", 0, "", bytes.NewReader(content)); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(content)))
	for b.Loop() {
		_, body, err := c.ReadFile(b.Context(), "/f")
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, body); err != nil || n != int64(len(content)) {
			b.Fatalf("%d bytes, %v", n, err)
		}
		_ = body.Close()
	}
}
