package system

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
)

// TestFloods: what one sandbox does to itself does not reach its neighbour or the server.
func TestFloods(t *testing.T) {
	floods := []struct{ name, command string }{
		{"fork bomb", `python3 -c '
import os, time
while True:
    try: os.fork()
    except OSError: time.sleep(0.1)'`},
		{"memory hog", `python3 -c '
hog = []
while True: hog.append(bytearray(16 << 20))'`},
		{"disk filler", `cat /dev/zero > /workspace/full; sync; cat /dev/zero > /tmp/full2; while :; do cat /dev/zero > /root/f 2>/dev/null; done`},
		{"output without a reader", `yes`},
		{"processor hog", `for i in 1 2 3 4 5 6 7 8; do python3 -c 'while True: pass' & done; wait`},
	}
	s := start(t)
	for _, flood := range floods {
		t.Run(flood.name, func(t *testing.T) {
			neighbour := s.spawn(client.SpawnRequest{MemoryMB: 256})
			s.shell(neighbour.ID, "true")
			quiet := s.execTime(t, neighbour.ID)
			memory := s.memory()

			offender := s.spawn(client.SpawnRequest{MemoryMB: 256, DiskMB: 64})
			if _, err := s.Start(t.Context(), offender.ID, client.ExecRequest{Command: flood.command}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(5 * time.Second) // the time in which it must be contained
			// The bound is twice; the slack of some milliseconds and the further tries are for a
			// machine that does other things too. A flood that is not contained is there in every
			// try.
			bound, loud := 2*quiet+10*time.Millisecond, s.execTime(t, neighbour.ID)
			for try := 0; try < 3 && loud > bound; try++ {
				loud = min(loud, s.execTime(t, neighbour.ID))
			}
			t.Logf("the neighbour's exec: %v alone, %v beside the flood; server memory %d MiB -> %d MiB", quiet, loud, memory>>20, s.memory()>>20)
			if loud > bound {
				t.Errorf("the neighbour is slowed from %v to %v", quiet, loud)
			}
			if grown := s.memory() - memory; grown > mayGrow {
				t.Errorf("server memory grew by %d MiB", grown>>20)
			}
			for _, id := range []string{offender.ID, neighbour.ID} {
				if err := s.Destroy(t.Context(), id); err != nil {
					t.Errorf("destroy: %v", err)
				}
			}
			s.auditSandboxes(0)
		})
	}
}

// execTime is the median round trip of `true`.
func (s *server) execTime(t *testing.T, sandbox string) time.Duration {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var times []time.Duration
	for range 41 {
		began := time.Now()
		result, err := s.Exec(ctx, sandbox, client.ExecRequest{Mode: client.ModeArgv, Command: "true"})
		if err != nil || result.ExitCode != 0 {
			t.Fatalf("exec true: %+v, %v", result, err)
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	return times[len(times)/2]
}

// TestMemoryLimit: the guest sees its own limit as the machine's memory, and a command that goes
// over it dies alone.
func TestMemoryLimit(t *testing.T) {
	s := start(t)
	sandbox := s.spawn(client.SpawnRequest{MemoryMB: 192})
	if got := s.shell(sandbox.ID, `awk '/MemTotal/{print int($2/1024)}' /proc/meminfo`); got != "192\n" {
		t.Errorf("the guest sees %q MiB, want 192", got)
	}
}
