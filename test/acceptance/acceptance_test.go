package acceptance

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/stacyvm/stacyvm/internal/testneed"
	"github.com/stacyvm/stacyvm/test/harness"
)

// TestScripts are those that need sandboxes that isolate.
func TestScripts(t *testing.T) {
	testneed.GVisor(t)
	runScripts(t, "testdata")
}

// TestMockScripts need no root and no gVisor: the mock engine does for them, or none.
func TestMockScripts(t *testing.T) { runScripts(t, "testdata/mock") }

func runScripts(t *testing.T, dir string) {
	t.Helper()
	stacyvm, err := harness.Binary()
	if err != nil {
		t.Fatal(err)
	}
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		Setup:               setup(stacyvm),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"serve":     serve,
			"halt":      halt,
			"setid":     setID,
			"interrupt": interrupt,
			"nothing":   nothing,
			"work":      work,
			"leave":     leave,
		},
	})
}

// setup gives each script the binary, a data directory of its own and a free port.
func setup(stacyvm string) func(*testscript.Env) error {
	return func(env *testscript.Env) error {
		free, err := harness.FreePort()
		if err != nil {
			return err
		}
		port := strconv.Itoa(free)
		env.Setenv("PATH", filepath.Dir(stacyvm)+":/usr/sbin:/usr/bin:/sbin:/bin")
		env.Setenv("STACYVM_DATA_DIR", filepath.Join(env.WorkDir, "data"))
		env.Setenv("STACYVM_SERVER_PORT", port)
		env.Setenv("STACYVM_SERVER", "http://127.0.0.1:"+port)
		env.Defer(func() { report(env, audit(env.WorkDir)) })
		return nil
	}
}

// report fails the script's test when something of it is left on the machine.
func report(env *testscript.Env, left []string) {
	for _, what := range left {
		env.T().Log("left on the machine: " + what)
	}
	if len(left) > 0 {
		env.T().FailNow()
	}
}

// audit lists what belongs to a work directory, once it has had time to go.
func audit(dir string) (left []string) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		left = harness.Leftovers(dir)
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
	}
}

// serve [NAME=VALUE...] starts a server and waits until it is ready. It is stopped at the script's
// end.
func serve(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("use `! exec stacyvm serve`")
	}
	port, err := strconv.Atoi(ts.Getenv("STACYVM_SERVER_PORT"))
	ts.Check(err)
	server, err := harness.New(ts.MkAbs("."), args...)
	ts.Check(err)
	server.Port = port
	if server.HTTP = trusting(ts); server.HTTP != nil {
		ts.Setenv("STACYVM_SERVER", server.URL())
	}
	ts.Defer(func() {
		clearAway(ts, server)
		ts.Check(server.Stop())
	})
	running.Store(server.Dir, server)
	ts.Check(server.Up())
}

// clearAway destroys what a script that failed half-way left.
func clearAway(ts *testscript.TestScript, server *harness.Server) {
	if !server.Running() {
		return
	}
	c := clientOf(ts)
	sandboxes, err := c.Sandboxes(context.Background())
	ts.Check(err)
	for _, sandbox := range sandboxes {
		ts.Check(c.Destroy(context.Background(), sandbox.ID))
	}
}

// running holds each work directory's server: scripts run in parallel.
var running sync.Map

// halt ends the server of `serve`. (testscript has a `stop` of its own, which ends the script.)
func halt(ts *testscript.TestScript, _ bool, _ []string) {
	server, ok := running.Load(ts.MkAbs("."))
	if !ok {
		ts.Fatalf("no server was started")
	}
	ts.Check(server.(*harness.Server).Stop())
}

// setid NAME FILE sets the variable to the first word of the file (stdout is the last command's
// output).
func setID(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: setid NAME FILE")
	}
	words := strings.Fields(ts.ReadFile(args[1]))
	if len(words) == 0 {
		ts.Fatalf("%s is empty", args[1])
	}
	ts.Setenv(args[0], words[0])
}

// interrupt WORD ARG... runs the product with arguments, sends it an interrupt when its output
// holds the word, and demands that it ends within 20 s with exit code 130.
func interrupt(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) < 2 {
		ts.Fatalf("usage: interrupt WORD ARG...")
	}
	output := &watcher{word: args[0], seen: make(chan struct{})}
	program, err := harness.Binary()
	ts.Check(err)
	command := exec.Command(program, args[1:]...)
	command.Dir = ts.MkAbs(".")
	command.Env = []string{"PATH=" + ts.Getenv("PATH"), "HOME=" + ts.MkAbs("."), "STACYVM_DATA_DIR=" + ts.Getenv("STACYVM_DATA_DIR"), "STACYVM_SERVER=" + ts.Getenv("STACYVM_SERVER")}
	command.Stdout, command.Stderr = output, output
	ts.Check(command.Start())
	ended := make(chan error, 1)
	go func() { ended <- command.Wait() }()
	select {
	case <-output.seen:
	case err := <-ended:
		ts.Fatalf("%v ended before it printed %q: %v\n%s", args[1:], args[0], err, output.text.String())
	}
	ts.Check(command.Process.Signal(os.Interrupt))
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		_ = command.Process.Kill()
		<-ended
		ts.Fatalf("%v did not end after an interrupt", args[1:])
	}
	if code := command.ProcessState.ExitCode(); code != 130 {
		ts.Fatalf("exit code %d after an interrupt, want 130\n%s", code, output.text.String())
	}
}

// watcher closes seen when the word was written.
type watcher struct {
	word string
	text strings.Builder
	seen chan struct{}
	done bool
}

func (w *watcher) Write(p []byte) (int, error) {
	w.text.Write(p)
	if !w.done && strings.Contains(w.text.String(), w.word) {
		w.done = true
		close(w.seen)
	}
	return len(p), nil
}

// nothing demands that no process or mount of this script's directory is on the machine, and no
// sandbox's files.
func nothing(ts *testscript.TestScript, _ bool, _ []string) {
	left := audit(ts.MkAbs("."))
	for _, files := range []string{"run/*", "images/holders/*", "engines/gvisor/sandboxes/*"} {
		found, err := filepath.Glob(filepath.Join(ts.Getenv("STACYVM_DATA_DIR"), files))
		ts.Check(err)
		left = append(left, found...)
	}
	if len(left) > 0 {
		ts.Fatalf("left on the machine: %s", fmt.Sprint(left))
	}
}
