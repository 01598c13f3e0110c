package agent

import (
	"strings"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

func TestTerminal(t *testing.T) {
	h := newHost(t)
	script := `tty; echo $TERM; stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.01; done`
	w := h.watch(t, &guestv1.StartRequest{Argv: shell(script), Terminal: &guestv1.Terminal{Rows: 33, Cols: 111}})
	w.untilOutput("ready")
	if !strings.HasPrefix(string(w.stdout), "/dev/pts/") || !strings.Contains(string(w.stdout), "xterm-256color\r\n33 111\r\n") {
		t.Errorf("got %q", w.stdout)
	}
	size := &guestv1.Terminal{Rows: 40, Cols: 120}
	if _, err := h.processes.Resize(t.Context(), connect.NewRequest(&guestv1.ResizeRequest{Id: w.id(), Terminal: size})); err != nil {
		t.Fatal(err)
	}
	if exit := w.untilExit(); exit.Code != 5 || !strings.HasSuffix(string(w.stdout), "40 120\r\n") {
		t.Errorf("got %q, %v", w.stdout, exit)
	}
	_, err := h.processes.Resize(t.Context(), connect.NewRequest(&guestv1.ResizeRequest{Id: w.id(), Terminal: size}))
	wantCode(t, err, connect.CodeFailedPrecondition)
	p := h.sh(t, "true")
	_, err = h.processes.Resize(t.Context(), connect.NewRequest(&guestv1.ResizeRequest{Id: p.started.Id, Terminal: size}))
	wantCode(t, err, connect.CodeFailedPrecondition)
}

func TestInterruptKey(t *testing.T) {
	h := newHost(t)
	w := h.watch(t, &guestv1.StartRequest{Argv: shell("echo ready; exec sleep 1000"), Terminal: &guestv1.Terminal{}})
	w.untilOutput("ready")
	if _, err := h.input(t, w.id(), "\x03", nil, false); err != nil {
		t.Fatal(err)
	}
	if exit := w.untilExit(); exit.Signal != int32(unix.SIGINT) || exit.Code != 130 {
		t.Errorf("exit %v", exit)
	}
}

// TestEndOfInputOnTerminal closes after an unfinished line and after none.
func TestEndOfInputOnTerminal(t *testing.T) {
	h := newHost(t)
	for _, text := range []string{"line\n", "unfinished", ""} {
		w := h.watch(t, &guestv1.StartRequest{Argv: shell("stty -echo; echo ready; cat; echo end"), Terminal: &guestv1.Terminal{}})
		w.untilOutput("ready\r\n")
		if _, err := h.input(t, w.id(), text, nil, true); err != nil {
			t.Fatal(err)
		}
		want := "ready\r\n" + strings.ReplaceAll(text, "\n", "\r\n") + "end\r\n"
		if exit := w.untilExit(); exit.Code != 0 || string(w.stdout) != want {
			t.Errorf("got %q, want %q; %v", w.stdout, want, exit)
		}
	}
}

// TestKillReachesJobs ends a shell whose job has a group of its own.
func TestKillReachesJobs(t *testing.T) {
	h := newHost(t)
	w := h.watch(t, &guestv1.StartRequest{Argv: shell("set -m; (trap '' HUP; exec sleep 1000) & echo job $!; wait"), Terminal: &guestv1.Terminal{}})
	w.untilOutput("\r\n")
	if err := h.signal(t, w.id(), int32(unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	if exit := w.untilExit(); exit.Code != 137 {
		t.Errorf("exit %v", exit)
	}
	fields := strings.Fields(string(w.stdout))
	wantGone(t, fields[len(fields)-1])
}

// TestLetGoOfTerminal: a program that closes its terminal, as cat does before it ends, is not hung
// up on, and may come back.
func TestLetGoOfTerminal(t *testing.T) {
	h := newHost(t)
	r := h.run(t, &guestv1.StartRequest{Argv: shell(`t=$(tty); exec 0<&- 1>&- 2>&-; sleep 0.3; echo back >$t; exit 7`), Terminal: &guestv1.Terminal{}})
	if r.exit.GetCode() != 7 || !strings.Contains(string(r.stdout), "back") {
		t.Errorf("exit %+v, output %q", r.exit, r.stdout)
	}
}
