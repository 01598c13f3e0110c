package agent

import (
	"crypto/sha256"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/testneed"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

func TestRun(t *testing.T) {
	h := newHost(t)
	r := h.run(t, &guestv1.StartRequest{Id: "first", Label: "the label", Argv: shell(`printf out; printf 'err\000or' >&2; exit 7`)})
	if string(r.stdout) != "out" || string(r.stderr) != "err\x00or" || r.exit.Code != 7 {
		t.Errorf("got %q, %q, %v", r.stdout, r.stderr, r.exit)
	}
	if sum := sha256.Sum256([]byte("out")); string(r.exit.StdoutSha256) != string(sum[:]) || r.exit.StdoutBytes != 3 {
		t.Errorf("sum or count of stdout is wrong: %v", r.exit)
	}
	if sum := sha256.Sum256([]byte("err\x00or")); string(r.exit.StderrSha256) != string(sum[:]) || r.exit.StderrBytes != 6 {
		t.Errorf("sum or count of stderr is wrong: %v", r.exit)
	}
	if r.exit.StreamsHeld || r.exit.DurationUs <= 0 {
		t.Errorf("exit %v", r.exit)
	}
	if p := r.started; p.Id != "first" || p.Label != "the label" || p.Pid <= 0 || p.Workdir != "/" || p.User != "root" || p.StdinOpen {
		t.Errorf("started %v", p)
	}
}

func TestExitCodes(t *testing.T) {
	h := newHost(t)
	write(t, filepath.Join(h.root, "plain"), "text", 0o644)
	write(t, filepath.Join(h.root, "garbage"), "\x00\x01\x02", 0o755)
	write(t, filepath.Join(h.root, "orphaned"), "#!/no/such/interpreter\n", 0o755)
	for _, c := range []struct {
		argv   []string
		code   int32
		signal int32
	}{
		{[]string{"true"}, 0, 0},
		{[]string{"false"}, 1, 0},
		{shell("kill -TERM $$"), 143, 15},
		{shell("kill -9 $$"), 137, 9},
		{[]string{"no-such-program"}, 127, 0},
		{[]string{""}, 127, 0},
		{[]string{"/no/such/program"}, 127, 0},
		{[]string{"./orphaned"}, 127, 0},
		{[]string{"/etc"}, 126, 0},
		{[]string{"./plain"}, 126, 0},
		{[]string{"./garbage"}, 126, 0},
	} {
		r := h.run(t, &guestv1.StartRequest{Argv: c.argv, Workdir: "/"})
		if r.exit.Code != c.code || r.exit.Signal != c.signal || r.exit.TimedOut {
			t.Errorf("%q: exit %v, want code %d, signal %d", c.argv, r.exit, c.code, c.signal)
		}
		if failed := c.code == 126 || c.code == 127; failed != (r.exit.Error != "") || failed != (r.started.Pid == 0) {
			t.Errorf("%q: started %v, exit %v", c.argv, r.started, r.exit)
		}
	}
}

func TestInvalidStart(t *testing.T) {
	h := newHost(t)
	for name, req := range map[string]*guestv1.StartRequest{
		"no argv":        {},
		"bad id":         {Id: "a/b", Argv: []string{"true"}},
		"long id":        {Id: strings.Repeat("x", 65), Argv: []string{"true"}},
		"zero byte":      {Argv: []string{"true", "a\x00b"}},
		"bad name":       {Argv: []string{"true"}, Env: map[string]string{"A=B": "c"}},
		"empty name":     {Argv: []string{"true"}, Env: map[string]string{"": "c"}},
		"negative limit": {Argv: []string{"true"}, TimeoutMs: -1},
	} {
		_, err := h.processes.Start(t.Context(), connect.NewRequest(req))
		if connect.CodeOf(err) != connect.CodeInvalidArgument {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestEnvironmentAndWorkdir(t *testing.T) {
	h := newHost(t, func(_ *Config, boot *guest.Boot) {
		boot.Env = map[string]string{"LANG": "xx", "FROM_BOOT": "1", "BOTH": "boot"}
	})
	script := `echo "$PATH|$HOME|$USER|$LANG|$FROM_BOOT|$BOTH|$TERM"; pwd`
	r := h.run(t, &guestv1.StartRequest{Argv: shell(script), Env: map[string]string{"BOTH": "request"}, Workdir: "/workspace/a/b"})
	want := fmt.Sprintf("%s|%s/root|root|xx|1|request|\n%s/workspace/a/b\n", defaultPath, h.root, h.root)
	if string(r.stdout) != want || r.started.Workdir != "/workspace/a/b" {
		t.Errorf("got %q in %s, want %q", r.stdout, r.started.Workdir, want)
	}
	if r := h.sh(t, "pwd"); string(r.stdout) != h.root+"/workspace\n" {
		t.Errorf("the default is %q once it is there", r.stdout)
	}
	if r := h.run(t, &guestv1.StartRequest{Argv: shell("pwd"), Workdir: "c"}); string(r.stdout) != h.root+"/workspace/c\n" {
		t.Errorf("a relative directory is %q", r.stdout)
	}
	if r := h.run(t, &guestv1.StartRequest{Argv: shell("pwd"), Workdir: "/workspace/../../../missing"}); r.exit.Code != 126 || r.exit.Error == "" {
		t.Errorf("a missing directory: %v", r.exit)
	}
}

func TestNoStrangeDescriptors(t *testing.T) {
	// what the test itself was given
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		testneed.Missing(t, "kernel", "the agent's descriptors cannot be told from the test's: "+err.Error())
	}
	h := newHost(t)
	r := h.sh(t, "ls /proc/self/fd; cat; readlink /proc/self/fd/0")
	if string(r.stdout) != "0\n1\n2\n3\n/dev/null\n" { // 3 is the directory that ls reads
		t.Errorf("got %q", r.stdout)
	}
}

func TestParallelCommands(t *testing.T) {
	h := newHost(t)
	slots := make(chan struct{}, 32)
	var group sync.WaitGroup
	for i := range 500 {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			r := h.sh(t, fmt.Sprintf("echo out %d; echo err %d >&2; exit %d", i, i, i%100))
			if string(r.stdout) != fmt.Sprintf("out %d\n", i) || string(r.stderr) != fmt.Sprintf("err %d\n", i) || r.exit.Code != int32(i%100) {
				t.Errorf("%d: %q, %q, %v", i, r.stdout, r.stderr, r.exit)
			}
		})
	}
	group.Wait()
}

func TestStartTwice(t *testing.T) {
	h := newHost(t)
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			r := h.run(t, &guestv1.StartRequest{Id: "once", Argv: shell("echo $$ >> ran; echo $$")})
			if string(r.stdout) != fmt.Sprintf("%d\n", r.started.Pid) {
				t.Errorf("process %d printed %q", r.started.Pid, r.stdout)
			}
		})
	}
	group.Wait()
	if text, err := os.ReadFile(filepath.Join(h.root, "ran")); err != nil || strings.Count(string(text), "\n") != 1 {
		t.Errorf("ran %q, %v", text, err)
	}
}

func TestTimeoutKillsChildren(t *testing.T) {
	h := newHost(t)
	r := h.run(t, &guestv1.StartRequest{Argv: shell("trap '' TERM; sleep 1000 & echo $!; wait"), TimeoutMs: 300})
	if r.exit.Code != 124 || !r.exit.TimedOut || r.exit.Signal != 9 || r.exit.StreamsHeld {
		t.Errorf("exit %v", r.exit)
	}
	wantGone(t, strings.TrimSpace(string(r.stdout)))
}

// TestLeftBehindChild has a child that holds the streams: the exit comes all the same, and what
// the child prints later is collected.
func TestLeftBehindChild(t *testing.T) {
	h := newHost(t)
	r := h.sh(t, `mkfifo go; (read line < go; echo later) & echo early`)
	if string(r.stdout) != "early\n" || !r.exit.StreamsHeld || r.exit.Code != 0 || r.exit.StdoutBytes != 6 {
		t.Errorf("got %q, %v", r.stdout, r.exit)
	}
	h.sh(t, "echo > go")
	eventually(t, "the child's output is there", func() bool {
		return len(h.attach(t, &guestv1.AttachRequest{Id: r.started.Id, StdoutOffset: 6}).stdout) == len("later\n")
	})
	again := h.attach(t, &guestv1.AttachRequest{Id: r.started.Id})
	if string(again.stdout) != "early\nlater\n" || again.exit.StdoutBytes != uint64(len(again.stdout)) || !again.exit.StreamsHeld {
		t.Errorf("got %q, %v", again.stdout, again.exit)
	}
}

// TestLeftBehindFlood has a child that never stops printing: the exit comes, and all that the
// process printed before it.
func TestLeftBehindFlood(t *testing.T) {
	h := newHost(t)
	r := h.run(t, &guestv1.StartRequest{Argv: shell(`yes & echo $! >&2; echo mine >&2`)})
	pid, rest, _ := strings.Cut(string(r.stderr), "\n")
	if r.exit.Code != 0 || !r.exit.StreamsHeld || rest != "mine\n" {
		t.Errorf("stderr %q, exit %v", r.stderr, r.exit)
	}
	number, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(number, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

func TestSignal(t *testing.T) {
	h := newHost(t)
	w := h.watch(t, &guestv1.StartRequest{Argv: shell("trap 'echo caught; exit 3' USR1; echo ready; while :; do sleep 0.01; done")})
	w.untilOutput("ready")
	if err := h.signal(t, w.id(), int32(unix.SIGUSR1)); err != nil {
		t.Fatal(err)
	}
	if exit := w.untilExit(); exit.Code != 3 || string(w.stdout) != "ready\ncaught\n" {
		t.Errorf("got %q, %v", w.stdout, exit)
	}
	wantCode(t, h.signal(t, w.id(), int32(unix.SIGTERM)), connect.CodeFailedPrecondition)
	wantCode(t, h.signal(t, w.id(), 0), connect.CodeInvalidArgument)
	wantCode(t, h.signal(t, "nobody", int32(unix.SIGTERM)), connect.CodeNotFound)
}

func (h *host) signal(t *testing.T, id string, number int32) error {
	_, err := h.processes.Signal(t.Context(), connect.NewRequest(&guestv1.SignalRequest{Id: id, Signal: number}))
	return err
}

func TestWaitAndList(t *testing.T) {
	h := newHost(t)
	h.sh(t, "exit 1")
	p := h.begin(t, &guestv1.StartRequest{Id: "second", Argv: shell("cat; exit 2"), Stdin: true})
	if !p.StdinOpen || p.Exit != nil || p.EndedUs != 0 {
		t.Errorf("started %v", p)
	}
	list, err := h.processes.List(t.Context(), connect.NewRequest(&guestv1.ListRequest{}))
	if err != nil || len(list.Msg.Processes) != 2 || list.Msg.Processes[0].Exit.GetCode() != 1 || list.Msg.Processes[1].Exit != nil {
		t.Errorf("list %v, %v", list, err)
	}
	if _, err := h.input(t, "second", "", nil, true); err != nil {
		t.Fatal(err)
	}
	ended, err := h.processes.Wait(t.Context(), connect.NewRequest(&guestv1.WaitRequest{Id: "second"}))
	if err != nil || ended.Msg.Process.Exit.GetCode() != 2 || ended.Msg.Process.StdinOpen || ended.Msg.Process.EndedUs < p.StartedUs {
		t.Errorf("wait %v, %v", ended, err)
	}
	_, err = h.processes.Wait(t.Context(), connect.NewRequest(&guestv1.WaitRequest{Id: "nobody"}))
	wantCode(t, err, connect.CodeNotFound)
}

func TestCloseKills(t *testing.T) {
	h := newHost(t)
	w := h.watch(t, &guestv1.StartRequest{Argv: shell("sleep 1000 & echo $!; wait")})
	w.untilOutput("\n")
	left := h.sh(t, "sleep 1000 >/dev/null 2>&1 & echo $!")
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	wantGone(t, strings.TrimSpace(string(w.stdout)))
	wantGone(t, strings.TrimSpace(string(left.stdout)))
	_, err := h.start(&guestv1.StartRequest{Argv: []string{"true"}})
	wantCode(t, err, connect.CodeUnavailable)
}

func write(t *testing.T, name, text string, mode os.FileMode) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// wantGone waits until a process is dead: its new parent collects it in its own time.
func wantGone(t *testing.T, pid string) {
	t.Helper()
	number, err := strconv.Atoi(pid)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "process "+pid+" is dead", func() bool {
		text, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
		return err != nil || strings.Contains(string(text), ") Z ") || unix.Kill(number, 0) != nil
	})
}
