package gvisor_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stacyvm/stacyvm/internal/bundle"
	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/engine/gvisor"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// agent is the guest program of these tests, built once.
var agent string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "stacyvm-agent-")
	if err != nil {
		panic(err)
	}
	agent = filepath.Join(dir, "agent", "agent")
	build := exec.Command("go", "build", "-o", agent, "./testdata/agent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := build.CombinedOutput(); err != nil {
		panic(string(output))
	}
	status := m.Run()
	os.RemoveAll(dir)
	if err := goleak.Find(); err != nil && status == 0 {
		fmt.Fprintln(os.Stderr, err)
		status = 1
	}
	os.Exit(status)
}

// open gives an engine on a directory of its own. At the end of the test nothing of it may be left
// on the machine.
func open(t *testing.T) *gvisor.Engine {
	t.Helper()
	testneed.GVisor(t)
	dir := t.TempDir()
	e := reopen(t, dir)
	t.Cleanup(func() { audit(t, dir) })
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

// reopen is what a restarted server does.
func reopen(t *testing.T, dir string) *gvisor.Engine {
	t.Helper()
	e, err := gvisor.Open(gvisor.Config{Dir: dir, Launcher: launcher(t, dir), Guest: agent})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func launcher(t *testing.T, dir string) string {
	t.Helper()
	path, err := bundle.Unpack(dir, bundle.Sentry)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// spec is a sandbox with the machine's programs and an empty root.
func spec(t *testing.T) engine.Spec {
	t.Helper()
	root := t.TempDir()
	for _, name := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+name, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"usr", "tmp", "root", "dev", "proc", "sys", "etc"} {
		if err := os.Mkdir(filepath.Join(root, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(root, "tmp"), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	return engine.Spec{
		ID:          stacyvm.SandboxID("sb_" + rand.Text()),
		Labels:      map[string]string{engine.LabelOwner: "test"},
		Root:        engine.Root{Dir: root, Mounts: []engine.Mount{{Source: "/usr", Target: "/usr"}, {Target: "/usr/local"}}},
		MemoryBytes: 256 << 20, DiskBytes: 64 << 20, CPUs: 1, Pids: 256,
		Hostname: "box",
		Boot:     guest.Boot{Secret: guest.NewSecret()},
	}
}

// create makes a sandbox that is destroyed with the test.
func create(t *testing.T, e *gvisor.Engine, s engine.Spec) engine.Instance {
	t.Helper()
	i, err := e.Create(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := i.Destroy(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return i
}

func dial(t *testing.T, i engine.Instance, target engine.Target) net.Conn {
	t.Helper()
	conn, err := i.Dial(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// ask sends the agent one line and gives its answer.
func ask(t *testing.T, conn net.Conn, line string) string {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(60 * time.Second))
	if _, err := fmt.Fprintln(conn, line); err != nil {
		t.Fatal(err)
	}
	answer, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	return strings.TrimSpace(answer)
}

func TestCreateDialDestroy(t *testing.T) {
	e := open(t)
	s := spec(t)
	i := create(t, e, s)

	first := dial(t, i, engine.Target{})
	if got := ask(t, first, "sh uname -n; id -u; cat /proc/meminfo | head -1"); got != "box|0|MemTotal:         262144 kB|[<nil>]" {
		t.Errorf("the guest answers %q", got)
	}
	if got := ask(t, dial(t, i, engine.Target{}), "hello"); got != "hello" {
		t.Errorf("second connection: %q", got)
	}
	if got := ask(t, dial(t, i, engine.Target{Port: guest.Port}), "hello"); got != "hello" {
		t.Errorf("port: %q", got)
	}
	if _, err := i.Dial(t.Context(), engine.Target{Port: 1}); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
		t.Errorf("closed port: %v", err)
	}
	status, err := i.Status(t.Context())
	if err != nil || !status.Running {
		t.Errorf("status %+v, %v", status, err)
	}
	if _, err := e.Create(t.Context(), s); stacyvm.CodeOf(err) != stacyvm.CodeConflict {
		t.Errorf("second create: %v", err)
	}
	if got := ask(t, first, "still there"); got != "still there" {
		t.Errorf("after the second create: %q", got)
	}
	runtimes, err := e.List(t.Context())
	if err != nil || len(runtimes) != 1 || runtimes[0].ID != s.ID || !runtimes[0].Running || runtimes[0].Labels[engine.LabelOwner] != "test" {
		t.Errorf("list %+v, %v", runtimes, err)
	}
	for range 2 {
		if err := i.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := i.Status(t.Context()); stacyvm.CodeOf(err) != stacyvm.CodeNotFound {
		t.Errorf("status after destroy: %v", err)
	}
	if _, err := i.Dial(t.Context(), engine.Target{}); stacyvm.CodeOf(err) != stacyvm.CodeNotFound {
		t.Errorf("dial after destroy: %v", err)
	}
}
