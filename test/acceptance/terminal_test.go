package acceptance

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// terminal is a window in which one command runs.
type terminal struct {
	t       *testing.T
	cmd     *exec.Cmd
	keys    *os.File // the window's side
	program *os.File // the command's side, kept open to look at its mode
	before  unix.Termios
	ended   chan struct{} // closed when the command has ended

	mu      sync.Mutex
	text    string
	more    chan struct{} // holds a token when text grew
	started time.Time
}

// open starts a command in a window of 33 lines and 101 columns.
func (r *rig) open(cmd *exec.Cmd) *terminal {
	r.t.Helper()
	keys, program, err := pty.Open()
	if err != nil {
		r.t.Fatal(err)
	}
	w := &terminal{t: r.t, cmd: cmd, keys: keys, program: program, ended: make(chan struct{}), more: make(chan struct{}, 1), started: time.Now()}
	w.resize(33, 101)
	w.before = w.mode()
	cmd.Env = append(cmd.Env, "TERM=xterm")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	go func() { _ = cmd.Wait(); close(w.ended) }()
	reading := make(chan struct{})
	go func() { defer close(reading); w.read() }()
	r.t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		<-w.ended
		_ = program.Close()
		_ = keys.Close()
		<-reading
	})
	return w
}

func (w *terminal) read() {
	buffer := make([]byte, 4096)
	for {
		n, err := w.keys.Read(buffer)
		w.mu.Lock()
		w.text += string(buffer[:n])
		w.mu.Unlock()
		select {
		case w.more <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

func (w *terminal) shown() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text
}

// expect waits until the window shows words that come after what was expected before.
func (w *terminal) expect(words string) {
	w.t.Helper()
	deadline := time.After(patience)
	for {
		w.mu.Lock()
		_, after, found := strings.Cut(w.text, words)
		if found {
			w.text = after
		}
		w.mu.Unlock()
		if found {
			return
		}
		select {
		case <-w.more:
		case <-deadline:
			w.t.Fatalf("%q never showed; the window holds %q", words, w.shown())
		}
	}
}

func (w *terminal) type_(keys string) {
	w.t.Helper()
	if _, err := io.WriteString(w.keys, keys); err != nil {
		w.t.Fatal(err)
	}
}

func (w *terminal) resize(rows, cols uint16) {
	w.t.Helper()
	if err := pty.Setsize(w.keys, &pty.Winsize{Rows: rows, Cols: cols}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *terminal) mode() unix.Termios {
	w.t.Helper()
	mode, err := unix.IoctlGetTermios(int(w.program.Fd()), unix.TCGETS)
	if err != nil {
		w.t.Fatal(err)
	}
	return *mode
}

// end waits for the command's end and demands its exit code and the window's old mode.
func (w *terminal) end(exit int) {
	w.t.Helper()
	select {
	case <-w.ended:
	case <-time.After(patience):
		w.t.Fatalf("it did not end; the window holds %q", w.shown())
	}
	if code := w.cmd.ProcessState.ExitCode(); code != exit {
		w.t.Errorf("exit code %d, want %d; the window holds %q", code, exit, w.shown())
	}
	if mode := w.mode(); mode != w.before {
		w.t.Errorf("the terminal's mode was not restored: %+v, before %+v", mode, w.before)
	}
}

// raw waits until the command has the terminal in raw mode.
func (w *terminal) raw() {
	w.t.Helper()
	eventually(w.t, "raw mode", func() bool { return w.mode().Lflag&unix.ICANON == 0 })
}

const (
	ctrlC  = "\x03"
	ctrlD  = "\x04"
	detach = "\x10\x11"
	// sleeper speaks when it owns the terminal: before, an interrupt would be the shell's.
	sleeper = "sh -c 'echo slee\"\"ping; exec sleep 1000'\r"
)

func TestTerminal(t *testing.T) {
	r := newRig(t).serve()
	sandbox := r.sandbox()
	var process string
	t.Run("a shell", func(t *testing.T) {
		w := r.in(t).open(r.command("exec", "-it", sandbox, "--", "bash"))
		w.expect("# ")
		w.type_("stty size\r")
		w.expect("33 101")
		w.type_("until [ \"$(stty size)\" = '40 120' ]; do sleep 0.05; done; echo resi''zed\r")
		w.resize(40, 120)
		w.expect("resized")
		w.type_(sleeper)
		w.expect("sleeping")
		w.type_(ctrlC)
		w.type_("echo ali''ve\r")
		w.expect("alive")
		w.type_(detach)
		w.expect("stacyvm attach " + sandbox + " ")
		w.end(0)
		processes, err := r.client.Processes(t.Context(), sandbox)
		if err != nil || len(processes) != 1 || !processes[0].Running() {
			t.Fatalf("after detaching: %+v %v", processes, err)
		}
		process = processes[0].ID
	})
	t.Run("coming back", func(t *testing.T) {
		for exit, leave := range []string{detach, "exit 7\r"} {
			w := r.in(t).open(r.command("attach", "-i", sandbox, process))
			w.expect("alive") // all that was shown is shown again
			w.raw()
			w.type_("echo \"ba''ck $(stty size)\"\r")
			w.expect("ba''ck 33 101")
			w.type_(leave)
			w.end(exit * 7)
		}
	})
	t.Run("end of input", func(t *testing.T) {
		w := r.in(t).open(r.command("exec", "-it", sandbox, "--", "cat"))
		w.raw()
		w.type_("words\r")
		w.expect("words\r\nwords\r\n")
		w.type_(ctrlD)
		w.end(0)
	})
	t.Run("without input", func(t *testing.T) {
		w := r.in(t).open(r.command("exec", "-t", sandbox, "--", "sh", "-c", "stty size; exit 3"))
		w.expect("33 101\r\n")
		w.end(3)
	})
	t.Run("refused", func(t *testing.T) {
		for exit, args := range map[int][]string{
			1:   {"exec", "-it", "sb-000000000000000000000000", "--", "sh"},
			127: {"exec", "-it", sandbox, "--", "/nowhere"},
			126: {"exec", "-it", "-w", "/nowhere", sandbox, "--", "sh"},
		} {
			w := r.in(t).open(r.command(args...))
			w.end(exit)
		}
	})
	t.Run("signals", func(t *testing.T) {
		// Short sleeps: a signal that comes between two of them is the shell's alone, which heeds
		// it after the next.
		w := r.in(t).open(r.command("exec", "-it", sandbox, "--", "sh", "-c", "trap 'echo ignored' TERM; echo rea''dy; while true; do sleep 0.1; done"))
		w.expect("ready")
		w.raw()
		for range 2 {
			_ = w.cmd.Process.Signal(syscall.SIGTERM)
			w.expect("ignored")
		}
		_ = w.cmd.Process.Signal(syscall.SIGTERM)
		w.expect("no longer waiting")
		w.end(130)
	})
	t.Run("the sandbox goes", func(t *testing.T) {
		w := r.in(t).open(r.command("exec", "-it", sandbox, "--", "sh", "-c", "echo rea''dy; sleep 1000"))
		w.expect("ready")
		w.raw()
		if err := r.client.Destroy(t.Context(), sandbox); err != nil {
			t.Fatal(err)
		}
		w.end(1)
	})
}

// in gives the rig to a subtest.
func (r *rig) in(t *testing.T) *rig {
	other := *r
	other.t = t
	return &other
}

func TestRunTerminal(t *testing.T) {
	r := newRig(t)
	w := r.open(r.command("run", "-it", "--", "bash"))
	w.expect("# ")
	w.type_("stty size\r")
	w.expect("33 101")
	w.type_(sleeper)
	w.expect("sleeping")
	w.type_(ctrlC)
	w.type_("exit 9\r")
	w.end(9)
}

// TestProgress: an import whose archive does not come is shown on a terminal, after a second, and
// nowhere else.
func TestProgress(t *testing.T) {
	r := newRig(t)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	quiet := r.command("image", "import", "quiet", "-")
	quiet.Stdin = reader
	var complaint strings.Builder
	quiet.Stderr = &complaint
	if err := quiet.Start(); err != nil {
		t.Fatal(err)
	}
	w := r.open(r.shell("sleep 1000 | stacyvm image import slow -"))
	w.expect("importing - (1s)")
	if took := time.Since(w.started); took < time.Second {
		t.Errorf("shown after %v", took)
	}
	w.type_(ctrlC)
	w.expect("\r\x1b[K")
	w.expect("interrupted")
	w.end(130)
	if err := quiet.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if _ = quiet.Wait(); complaint.String() != "stacyvm: interrupted\n" || quiet.ProcessState.ExitCode() != 130 {
		t.Errorf("without a terminal: %q, %v", complaint.String(), quiet.ProcessState)
	}
	quick := r.open(r.command("image", "list"))
	quick.end(0)
	if shown := quick.shown(); strings.Contains(shown, "\x1b[K") {
		t.Errorf("progress of something quick: %q", shown)
	}
}
