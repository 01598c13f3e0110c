package acceptance

import (
	"bufio"
	"bytes"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// endsWithin is how soon a command is over after a signal that it was sent.
const endsWithin = 10 * time.Second

// left lists what a private server left on the machine and in the data directory.
func (r *rig) left() []string {
	r.t.Helper()
	found := r.server.Leftovers()
	for _, files := range []string{"run/*", "images/holders/*", "engines/gvisor/sandboxes/*"} {
		names, err := filepath.Glob(filepath.Join(r.server.DataDir(), files))
		if err != nil {
			r.t.Fatal(err)
		}
		found = append(found, names...)
	}
	return found
}

// nothing demands that nothing is left; the launcher may end a moment after the command that it
// served.
func (r *rig) nothing(when string) {
	r.t.Helper()
	found := r.left()
	for deadline := time.Now().Add(endsWithin); len(found) > 0 && time.Now().Before(deadline); found = r.left() {
		time.Sleep(20 * time.Millisecond)
	}
	if len(found) > 0 {
		r.t.Fatalf("%s: left %s", when, strings.Join(found, "\n"))
	}
}

// TestSignalAtAnyMoment ends `run` with a signal while it starts, runs or cleans up.
func TestSignalAtAnyMoment(t *testing.T) {
	r := newRig(t)
	line := []string{"run", "--shell", "--", "sleep 0.2"}
	start := time.Now()
	r.must(r.command(line...)) // also unpacks the programs
	r.must(r.command(line...))
	whole := time.Since(start) / 2
	signals := []syscall.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT}
	deadline := start.Add(time.Minute)
	rounds := 0
	for ; rounds < 50 && time.Now().Before(deadline); rounds++ {
		signal, moment := signals[rounds%len(signals)], rand.N(whole)
		cmd := r.command(line...)
		var complaint bytes.Buffer
		cmd.Stderr = &complaint
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() { _ = cmd.Wait(); close(ended) }()
		select {
		case <-time.After(moment): // the fault's moment, not a wait for something
			_ = cmd.Process.Signal(signal)
		case <-ended:
		}
		select {
		case <-ended:
		case <-time.After(endsWithin):
			_ = cmd.Process.Kill()
			<-ended
			t.Fatalf("%v after %v: it did not end\n%s", signal, moment, complaint.String())
		}
		state := cmd.ProcessState.Sys().(syscall.WaitStatus)
		switch {
		case state.Signaled() && state.Signal() == signal: // before it did anything, or after it had done everything
		// as before
		case signal == syscall.SIGQUIT && state.ExitStatus() == 2 && strings.HasPrefix(complaint.String(), "SIGQUIT"):
		case state.Exited() && (state.ExitStatus() == 0 || state.ExitStatus() == 130 || state.ExitStatus() == 128+int(signal)):
		default:
			t.Errorf("%v after %v: %v\n%s", signal, moment, cmd.ProcessState, complaint.String())
		}
		r.nothing(signal.String() + " after " + moment.String())
	}
	if t.Logf("%d signals within %v", rounds, whole); rounds < 10 {
		t.Errorf("only %d rounds in time", rounds)
	}
}

// TestInterruptedSpawn: nobody is told the id of a sandbox whose creation was interrupted, so none
// is left.
func TestInterruptedSpawn(t *testing.T) {
	r := newRig(t).serve()
	start := time.Now()
	r.must(r.command("kill", strings.TrimSpace(r.must(r.command("spawn", "--quiet")))))
	whole := time.Since(start)
	for range 8 {
		cmd, moment := r.command("spawn", "--quiet"), rand.N(whole)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		<-time.After(moment) // the fault's moment, not a wait for something
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		sandboxes, err := r.client.Sandboxes(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		want := 0
		if cmd.ProcessState.Success() {
			want = 1
		}
		if len(sandboxes) != want {
			t.Errorf("interrupted after %v: %v, %d sandboxes", moment, cmd.ProcessState, len(sandboxes))
		}
		for _, s := range sandboxes {
			r.must(r.command("kill", s.ID))
		}
	}
}

// speaking starts a command and waits until it prints the word.
func (r *rig) speaking(cmd *exec.Cmd, word string) {
	r.t.Helper()
	output, err := cmd.StdoutPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	lines := bufio.NewReader(output)
	for {
		line, err := lines.ReadString('\n')
		if strings.TrimSpace(line) == word {
			break
		}
		if err != nil {
			r.t.Fatalf("%q never printed %q: %v", cmd.Args[1:], word, err)
		}
	}
	r.t.Cleanup(func() { _, _ = io.Copy(io.Discard, lines) })
}

// TestSecondInterrupt: a command that ignores an interrupt is told once; the next one ends the
// run.
func TestSecondInterrupt(t *testing.T) {
	r := newRig(t)
	cmd := r.command("run", "--shell", "--", "trap 'echo ignored' INT; echo ready; while true; do sleep 1000; done")
	stdout, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdout.Close()
	cmd.Stdout = writer
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = writer.Close()
	lines := bufio.NewScanner(stdout)
	for _, word := range []string{"ready", "ignored"} {
		if !lines.Scan() || lines.Text() != word {
			t.Fatalf("printed %q, want %q", lines.Text(), word)
		}
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
		t.Errorf("%v, want exit code 130", err)
	}
	r.nothing("after the second interrupt")
}

// TestHangUp: nohup protects a run; without it a hang-up goes to the command.
func TestHangUp(t *testing.T) {
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGHUP) // commands inherit what is ignored: this suite may itself run under nohup
	t.Cleanup(func() { signal.Stop(heard) })
	r := newRig(t)
	const line = "trap 'exit 5' HUP; echo ready; read word; exit 6"
	for exit, words := range map[int][]string{
		5: {r.binary, "run", "-i", "--shell", "--", line},
		6: {"nohup", r.binary, "run", "-i", "--shell", "--", line},
	} {
		cmd := r.program(words[0], words[1:]...)
		input, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdin = input
		r.speaking(cmd, "ready")
		_ = input.Close()
		if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if exit == 6 { // nothing must come of the signal, which is not to be seen: the input ends the command
			_ = writer.Close()
		}
		err = cmd.Wait()
		_ = writer.Close()
		if code := cmd.ProcessState.ExitCode(); code != exit {
			t.Errorf("%s: %v, want exit code %d", words[0], err, exit)
		}
	}
	r.nothing("after hang-ups")
}

// TestKilledRun: what a killed run left is removed by the next run, by a starting server and by a
// running one.
func TestKilledRun(t *testing.T) {
	for name, remove := range map[string]func(*rig){
		"by the next run":      func(r *rig) { r.must(r.command("run", "--", "true")) },
		"by a starting server": func(r *rig) { r.serve() },
		"by a running server":  nil,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			if remove == nil {
				r.serve()
			}
			cmd := r.command("run", "--shell", "--", "echo ready; sleep 1000")
			r.speaking(cmd, "ready")
			if err := cmd.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = cmd.Wait()
			if len(r.left()) == 0 {
				t.Fatal("a killed run left nothing: the test looks in the wrong place")
			}
			if remove != nil {
				remove(r)
			}
			eventually(t, "removal", func() bool {
				found, err := filepath.Glob(filepath.Join(r.server.DataDir(), "run", "*"))
				return err == nil && len(found) == 0
			})
			if r.client == nil {
				r.nothing("afterwards")
			}
		})
	}
}
