package agent

import (
	"crypto/rand"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/testneed"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// escapes are ways in which a program leaves its parent's group, session or family; %s is a sleep
// that must be found again, and the command prints a line when it runs.
var escapes = map[string]struct {
	needs, script string
}{
	"child":               {"sh", `%s & echo up; wait`},
	"session":             {"setsid", `setsid %s & echo up; wait`},
	"timeout":             {"timeout", `(sleep 0.05; echo up) & timeout 3600 %s; echo never`},
	"job control":         {"bash", `exec bash -c 'set -m; %s & echo up; wait'`},
	"start_new_session":   {"python3", `exec python3 -c 'import subprocess; p = subprocess.Popen("%s".split(), start_new_session=True); print("up", flush=True); p.wait()'`},
	"detached":            {"node", `exec node -e 'const [p, ...a] = "%s".split(" "); require("child_process").spawn(p, a, {detached: true, stdio: "inherit"}); console.log("up")'`},
	"daemon":              {"setsid", `(setsid sh -c '%s >/dev/null 2>&1 & exit' &) ; sleep 0.1; echo up; sleep 3600`},
	"daemon without name": {"setsid", `(env -i setsid sh -c 'cd /; exec 0<&- 1>&- 2>&-; exec 3<&-; %s & exit' &) ; sleep 0.1; echo up; sleep 3600`},
	"terminal":            {"script", `(sleep 0.1; echo up) & script -qc '%s' /dev/null >/dev/null`},
}

// TestKillReachesDescendants: a time limit and a kill end everything that a command started, and a
// command that ended leaves what it left on purpose.
func TestKillReachesDescendants(t *testing.T) {
	if ownMark() == "" {
		testneed.Missing(t, "root", "processes that lost their parents are told by a namespace, which only root may make")
	}
	for name, escape := range escapes {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			testneed.Program(t, escape.needs)
			h := newHost(t)
			sleep := uniqueSleep(t)
			w := h.watch(t, &guestv1.StartRequest{Argv: shell(fmt.Sprintf(escape.script, sleep))})
			w.untilOutput("up")
			eventually(t, sleep+" runs", func() bool { return runs(sleep) })
			if err := h.signal(t, w.id(), int32(unix.SIGKILL)); err != nil {
				t.Fatal(err)
			}
			if exit := w.untilExit(); exit.Code != 137 || exit.Signal != 9 {
				t.Errorf("killed: exit %v", exit)
			}
			if left := running(sleep); len(left) > 0 {
				t.Errorf("killed, and there is %q", left)
			}
			sleep = uniqueSleep(t)
			r := h.run(t, &guestv1.StartRequest{Argv: shell(fmt.Sprintf(escape.script, sleep)), TimeoutMs: 1500})
			if r.exit.Code != 124 || !r.exit.TimedOut {
				t.Errorf("at its time limit: exit %v", r.exit)
			}
			if left := running(sleep); len(left) > 0 {
				t.Errorf("at its time limit there is %q", left)
			}
		})
	}
}

// TestKillLeavesOthers: what other commands run, and what an ended one left, goes on.
func TestKillLeavesOthers(t *testing.T) {
	h := newHost(t)
	left, other, mine := uniqueSleep(t), uniqueSleep(t), uniqueSleep(t)
	h.sh(t, "nohup "+left+" >/dev/null 2>&1 &")
	o := h.watch(t, &guestv1.StartRequest{Argv: shell("(setsid " + other + " &); echo up; sleep 3600")})
	o.untilOutput("up")
	w := h.watch(t, &guestv1.StartRequest{Argv: shell("(setsid " + mine + " &); echo up; sleep 3600")})
	w.untilOutput("up")
	for _, sleep := range []string{left, other, mine} {
		eventually(t, sleep+" runs", func() bool { return runs(sleep) })
	}
	if err := h.signal(t, w.id(), int32(unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	w.untilExit()
	if !runs(left) || !runs(other) || runs(mine) {
		t.Errorf("left by an ended command: %t; of another command: %t; of the killed one: %t", runs(left), runs(other), runs(mine))
	}
}

// TestKillEndsForkBomb: processes that start others faster than they can be counted end all the
// same.
func TestKillEndsForkBomb(t *testing.T) {
	h := newHost(t)
	sleep := uniqueSleep(t)
	script := "bomb() { while :; do (setsid " + sleep + " &); done; }; bomb & bomb & echo up; wait"
	w := h.watch(t, &guestv1.StartRequest{Argv: shell(script)})
	eventually(t, "there are many", func() bool { return len(running(sleep)) > 100 })
	if err := h.signal(t, w.id(), int32(unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	if exit := w.untilExit(); exit.Signal != 9 {
		t.Errorf("exit %v", exit)
	}
	if left := running(sleep); len(left) > 0 {
		t.Errorf("there is %q", left)
	}
}

// TestKillFreezes: beside many processes all stand still while those of the command are searched
// for, where that is possible.
func TestKillFreezes(t *testing.T) {
	for _, possible := range []bool{true, false} {
		calls := make(chan bool, 100) // the end of the test kills, too
		h := newHost(t, func(config *Config, _ *guest.Boot) {
			config.Freeze = func(still bool) error {
				calls <- still
				if !possible {
					return unix.EINVAL
				}
				return nil
			}
		})
		sleep := uniqueSleep(t)
		script := fmt.Sprintf("for i in $(seq %d); do setsid %s & done; wait", crowd+1, sleep)
		w := h.watch(t, &guestv1.StartRequest{Argv: shell(script)})
		eventually(t, "there are many", func() bool { return len(running(sleep)) > crowd })
		if err := h.signal(t, w.id(), int32(unix.SIGKILL)); err != nil {
			t.Fatal(err)
		}
		if exit := w.untilExit(); exit.Signal != 9 {
			t.Errorf("exit %v", exit)
		}
		if left := running(sleep); len(left) > 0 {
			t.Errorf("there is %q", left)
		}
		var made []bool
		for range len(calls) {
			made = append(made, <-calls)
		}
		if want := []bool{true, false}; !slices.Equal(made, want[:len(made)]) || len(made) == 0 || possible && len(made) != 2 {
			t.Errorf("possible: %v, calls: %v", possible, made)
		}
	}
}

// TestKillWithoutMarks finds descendants by their parents alone, as an agent that is not root
// must.
func TestKillWithoutMarks(t *testing.T) {
	h := newHost(t)
	h.ownMark = ""
	sleep := uniqueSleep(t)
	w := h.watch(t, &guestv1.StartRequest{Argv: shell("setsid sh -c 'setsid " + sleep + " & wait' & echo up; wait")})
	w.untilOutput("up")
	eventually(t, sleep+" runs", func() bool { return runs(sleep) })
	if err := h.signal(t, w.id(), int32(unix.SIGKILL)); err != nil {
		t.Fatal(err)
	}
	w.untilExit()
	if left := running(sleep); len(left) > 0 {
		t.Errorf("there is %q", left)
	}
}

// uniqueSleep gives a command that is told from all others by its argument.
func uniqueSleep(t *testing.T) string {
	t.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(1e15))
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("sleep 3600.%015d", n)
}

// running gives the processes whose command line holds text.
func running(text string) []string {
	return slices.DeleteFunc(commandLines(), func(line string) bool { return !strings.Contains(line, text) })
}

// runs tells whether a process has this command line.
func runs(line string) bool { return slices.Contains(commandLines(), line) }

func commandLines() (lines []string) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		if line, err := os.ReadFile(file); err == nil {
			lines = append(lines, strings.TrimSuffix(strings.ReplaceAll(string(line), "\x00", " "), " "))
		}
	}
	return lines
}
