// Package enginetest is the suite that every engine must pass: the promises of package engine,
// tried with a real guest program. It knows no engine; what an engine does beyond the port is
// tested beside it.
package enginetest

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Open gives an engine that can be used here, with no runtimes. The caller's clean-up closes it
// and checks that nothing is left on the machine.
type Open func(t *testing.T) engine.Engine

// Spec gives a sandbox with an id of its own, a secret, and a root in which /bin/sh and perl run.
type Spec func(t *testing.T) engine.Spec

// Reopen gives another engine on the same state, after the first was closed: what a restarted
// server has.
type Reopen func(t *testing.T, closed engine.Engine) engine.Engine

// Run checks every promise of the port. The sandboxes must hold the guest program, not a stand-in.
func Run(t *testing.T, open Open, spec Spec, reopen Reopen) {
	for name, test := range map[string]func(*testing.T, suite){
		"capabilities":      testCapabilities,
		"create":            testCreate,
		"second create":     testSecondCreate,
		"destroy":           testDestroy,
		"list":              testList,
		"attach":            testAttach,
		"expiry":            testExpiry,
		"ports":             testPorts,
		"parallel":          testParallel,
		"cancelled creates": testCancelled,
		"reopen":            testReopen,
	} {
		t.Run(name, func(t *testing.T) {
			test(t, suite{engine: open(t), spec: spec, reopen: reopen})
		})
	}
}

type suite struct {
	engine engine.Engine
	spec   Spec
	reopen Reopen
}

// within bounds every single call: a machine under load is many times slower than an idle one.
const within = 60 * time.Second

func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), within)
	t.Cleanup(cancel)
	return ctx
}

// create makes a sandbox that ends with the test.
func (s suite) create(t *testing.T, spec engine.Spec) engine.Instance {
	t.Helper()
	i, err := s.engine.Create(bounded(t), spec)
	if err != nil {
		t.Fatalf("create: %v", err)
	}
	t.Cleanup(func() {
		if err := i.Destroy(context.Background()); err != nil {
			t.Errorf("destroy: %v", err)
		}
	})
	return i
}

// client asks a sandbox's guest over a connection that ends with the test.
func client(t *testing.T, i engine.Instance, secret guest.Secret) *guest.Client {
	t.Helper()
	transport := guest.NewTransport(func(ctx context.Context) (net.Conn, error) { return i.Dial(ctx, engine.Target{}) }, secret)
	transport.DialDirect = func(ctx context.Context) (net.Conn, error) {
		return i.Dial(ctx, engine.Target{HTTP1: true})
	}
	t.Cleanup(transport.Close)
	return guest.NewClient(transport.Conn(guest.ScopeExec))
}

// bootID tells one start of a guest program from another.
func bootID(t *testing.T, c *guest.Client) string {
	t.Helper()
	id, err := c.Ping(bounded(t))
	if err != nil {
		t.Fatalf("the guest does not answer: %v", err)
	}
	return id
}

// output runs a shell command to its end.
func output(t *testing.T, c *guest.Client, script string) (stdout string, code int) {
	t.Helper()
	o, err := c.Run(bounded(t), stacyvm.Command{Argv: []string{"/bin/sh", "-c", script}})
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	defer o.Close()
	for {
		event, err := o.Next(bounded(t))
		switch {
		case err != nil:
			t.Fatalf("%s: %v", script, err)
		case event.Exit != nil:
			return stdout, event.Exit.Code
		case event.Stream == stacyvm.Stdout:
			stdout += string(event.Data)
		}
	}
}

// find looks a runtime up in the engine's list.
func (s suite) find(t *testing.T, id stacyvm.SandboxID) *engine.Runtime {
	t.Helper()
	all, err := s.engine.List(bounded(t))
	if err != nil {
		t.Fatalf("list: %v", err)
	}
	for _, r := range all {
		if r.ID == id {
			return &r
		}
	}
	return nil
}

func wantCode(t *testing.T, what string, err error, code stacyvm.Code) {
	t.Helper()
	if got := stacyvm.CodeOf(err); got != code {
		t.Errorf("%s: code %q, want %q (%v)", what, got, code, err)
	}
}
