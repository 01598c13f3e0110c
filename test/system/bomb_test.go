package system

import (
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
)

// bombs are programs that fork as fast as they can, beside /bin/sh, which is too small to be ended
// for their memory. The second one's processes share no group and no session.
var bombs = map[string]string{
	"in one group": `mkfifo /tmp/fifo; python3 -c '
import os
while True:
    try: os.fork()
    except OSError: pass' & read line <>/tmp/fifo`,
	"in sessions of their own": `mkfifo /tmp/fifo; python3 -c '
import os
while True:
    try:
        if os.fork() == 0: os.setsid()
    except OSError: pass' & read line <>/tmp/fifo`,
}

// TestKillForkBomb: KILL of a command that is a fork bomb ends it, with all its processes, soon
// and for good.
func TestKillForkBomb(t *testing.T) {
	for name, bomb := range bombs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			sandbox := s.spawn(client.SpawnRequest{MemoryMB: 256})
			neighbour := strings.TrimSpace(s.shell(sandbox.ID, "sleep 1000 >/dev/null 2>&1 & echo $!"))
			count := func() int { // of all but the neighbour, which may have been ended for lack of memory
				result, err := s.Exec(t.Context(), sandbox.ID, client.ExecRequest{
					Command: "set -- /proc/[0-9]*; n=$#; [ ! -d /proc/" + neighbour + " ] || n=$((n - 1)); echo $n",
				})
				if err != nil {
					t.Fatal(err)
				}
				n, _ := strconv.Atoi(strings.TrimSpace(result.Stdout)) // 0: there was no room for it
				return n
			}
			process, err := s.Start(t.Context(), sandbox.ID, client.ExecRequest{Command: bomb})
			if err != nil {
				t.Fatal(err)
			}
			s.until(30*time.Second, "the bomb grows", func() bool { return count() > 100 })
			began := time.Now()
			if err := s.Signal(t.Context(), sandbox.ID, process.ID, "KILL"); err != nil {
				t.Fatal(err)
			}
			took := time.Since(began)
			if took > 15*time.Second {
				t.Errorf("KILL took %v", took)
			}
			// Process 1 and the shell that counts are left.
			s.until(10*time.Second, "they are gone", func() bool { return count() == 2 })
			gone := time.Since(began)
			ended, err := s.Process(t.Context(), sandbox.ID, process.ID)
			// All are stopped before they are killed. A stopped group whose last parent ends meanwhile, for lack of
			// memory, is ended by the kernel's SIGHUP already.
			hungUp := ended.ExitCode == 129 && ended.Reason == "oom"
			if err != nil || ended.Running() || ended.ExitCode != 137 && !hungUp {
				t.Errorf("%+v, %v", ended, err)
			}
			t.Logf("KILL took %v, and all were gone after %v", took, gone)
		})
	}
}
