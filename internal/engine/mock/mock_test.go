package mock_test

import (
	"context"
	"crypto/rand"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/engine/enginetest"
	"github.com/stacyvm/stacyvm/internal/engine/mock"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSuite(t *testing.T) {
	dirs := map[engine.Engine]string{}
	openIn := func(t *testing.T, dir string) engine.Engine {
		e, err := mock.Open(mock.Config{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		dirs[e] = dir
		t.Cleanup(func() {
			if err := e.Close(); err != nil {
				t.Error(err)
			}
			nothingLeft(t, dir)
		})
		return e
	}
	open := func(t *testing.T) engine.Engine { return openIn(t, t.TempDir()) }
	reopen := func(t *testing.T, closed engine.Engine) engine.Engine { return openIn(t, dirs[closed]) }
	enginetest.Run(t, open, spec, reopen)
}

func spec(*testing.T) engine.Spec {
	return engine.Spec{
		ID: stacyvm.NewSandboxID(), MemoryBytes: 64 << 20, DiskBytes: 64 << 20, CPUs: 1, Pids: 100,
		Boot: guest.Boot{Secret: guest.NewSecret()},
	}
}

func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left in the directory: %v, %v", entries, err)
	}
}

// TestEndingEndsProcesses: what a sandbox started does not outlive it, background children
// included.
func TestEndingEndsProcesses(t *testing.T) {
	for name, end := range map[string]func(context.Context, *mock.Engine, engine.Instance, stacyvm.SandboxID) error{
		"destroy": func(ctx context.Context, _ *mock.Engine, i engine.Instance, _ stacyvm.SandboxID) error {
			return i.Destroy(ctx)
		},
		"remove": func(ctx context.Context, e *mock.Engine, _ engine.Instance, id stacyvm.SandboxID) error {
			return e.Remove(ctx, id)
		},
		"kill": func(_ context.Context, e *mock.Engine, _ engine.Instance, id stacyvm.SandboxID) error {
			e.Kill(id)
			return nil
		},
		"close": func(_ context.Context, e *mock.Engine, _ engine.Instance, _ stacyvm.SandboxID) error {
			return e.Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			e, err := mock.Open(mock.Config{Dir: dir})
			if err != nil {
				t.Fatal(err)
			}
			s := spec(t)
			i, err := e.Create(t.Context(), s)
			if err != nil {
				t.Fatal(err)
			}
			mark := "mark" + rand.Text()
			started(t, i, s, "sh -c 'sleep 1000; : "+mark+"' & echo started; sleep 1000; : "+mark)
			if len(processes(mark)) == 0 {
				t.Fatal("nothing runs")
			}
			if err := end(t.Context(), e, i, s.ID); err != nil {
				t.Error(err)
			}
			if left := processes(mark); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
			if err := e.Close(); err != nil {
				t.Error(err)
			}
			nothingLeft(t, dir)
		})
	}
}

// started runs a shell command until it has printed something.
func started(t *testing.T, i engine.Instance, s engine.Spec, script string) {
	t.Helper()
	dial := func(ctx context.Context) (net.Conn, error) { return i.Dial(ctx, engine.Target{}) }
	transport := guest.NewTransport(dial, s.Boot.Secret)
	defer transport.Close()
	o, err := guest.NewClient(transport.Conn(guest.ScopeExec)).Run(t.Context(), stacyvm.Command{Argv: []string{"/bin/sh", "-c", script}})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for {
		event, err := o.Next(t.Context())
		if err != nil || event.Exit != nil {
			t.Fatalf("%+v, %v", event.Exit, err)
		}
		if len(event.Data) > 0 {
			return
		}
	}
}

func processes(mark string) (found []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if line, err := os.ReadFile(file); err == nil && strings.Contains(string(line), mark) {
			found = append(found, string(line))
		}
	}
	return found
}

// TestFaults: each knob does what it says, and only as long as it is set.
func TestFaults(t *testing.T) {
	e, err := mock.Open(mock.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	broken := stacyvm.Errorf(stacyvm.CodeStorageFull, "on purpose")
	full := stacyvm.CodeStorageFull
	list := func() int {
		t.Helper()
		all, err := e.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}

	e.Inject(mock.Faults{Create: broken})
	_, err = e.Create(t.Context(), spec(t))
	wantCode(t, "create", err, full)
	if n := list(); n != 0 {
		t.Errorf("%d runtimes after a create that fails", n)
	}
	e.Inject(mock.Faults{BreakCreate: broken})
	left := spec(t)
	_, err = e.Create(t.Context(), left)
	wantCode(t, "create that breaks its promise", err, full)
	if n := list(); n != 1 {
		t.Errorf("%d runtimes after a create that leaves one", n)
	}
	e.Inject(mock.Faults{HideFromList: left.ID})
	if n := list(); n != 0 {
		t.Errorf("a hidden runtime is listed")
	}
	e.Inject(mock.Faults{List: broken, Probe: broken, Destroy: broken})
	_, err = e.List(t.Context())
	wantCode(t, "list", err, full)
	_, err = e.Probe(t.Context())
	wantCode(t, "probe", err, full)
	wantCode(t, "remove", e.Remove(t.Context(), left.ID), full)

	e.Inject(mock.Faults{Dials: 2, Unusable: "a moon phase"})
	if c, err := e.Probe(t.Context()); err != nil || c.Usable || c.Problems[0].What != "a moon phase" {
		t.Errorf("probe: %+v, %v", c, err)
	}
	i, err := e.Attach(t.Context(), left.ID, left.Boot.Secret)
	if err != nil {
		t.Fatal(err)
	}
	for _, code := range []stacyvm.Code{stacyvm.CodeUnavailable, stacyvm.CodeUnavailable, ""} {
		conn, err := i.Dial(t.Context(), engine.Target{})
		wantCode(t, "dial", err, code)
		if err == nil {
			conn.Close()
		}
	}
	e.Inject(mock.Faults{Hang: true})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = e.Create(ctx, spec(t))
	wantCode(t, "create that hangs", err, stacyvm.CodeTimeout)
	e.Inject(mock.Faults{})
	e.Kill(left.ID)
	if status, err := i.Status(t.Context()); err != nil || status.Running {
		t.Errorf("killed, but %+v, %v", status, err)
	}
	_, err = i.Dial(t.Context(), engine.Target{})
	wantCode(t, "dial a dead one", err, stacyvm.CodeUnavailable)
}

func wantCode(t *testing.T, what string, err error, code stacyvm.Code) {
	t.Helper()
	if got := stacyvm.CodeOf(err); got != code {
		t.Errorf("%s: code %q, want %q (%v)", what, got, code, err)
	}
}
