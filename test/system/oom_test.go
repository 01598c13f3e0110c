package system

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// hogs are ways to use a sandbox's memory up. Each is run by /bin/sh in a sandbox with 256 MiB.
var hogs = []struct {
	name, command string
	oom           bool // the largest process is ended; otherwise the command meets an error or none at all
	code          int  // -1: whatever its parent makes of that
}{
	{"at once", `exec python3 -c 'bytearray(400 << 20)'`, true, 137},
	{"in small steps", `exec python3 -c '
kept = []
while True: kept.append(bytearray(1 << 20))'`, true, 137},
	{"mapped and touched", `exec python3 -c '
import mmap
m = mmap.mmap(-1, 600 << 20)
for i in range(0, len(m), 4096): m[i] = 1'`, true, 137},
	// MAP_POPULATE is a hint, which is not taken.
	{"mapped with all pages", `exec python3 -c '
import mmap
mmap.mmap(-1, 1 << 30, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)'`, false, 0},
	{"in a file without a name", `exec python3 -c '
import os
fd = os.memfd_create("x")
while True: os.write(fd, bytes(1 << 20))'`, true, 137},
	{"in one call", `exec python3 -c '
import os
os.write(os.memfd_create("x"), bytes(600 << 20))
import time; time.sleep(20)'`, true, 137},
	{"in a file system in memory", `dd if=/dev/zero of=/dev/shm/x bs=1M count=400; code=$?; rm /dev/shm/x; exit $code`, false, 1},
	{"in /tmp", `dd if=/dev/zero of=/tmp/x bs=1M count=400; rm /tmp/x`, false, 0},
	{"in forks", `exec python3 -c '
import os, time
for i in range(100):
    if os.fork() == 0:
        kept = bytearray(8 << 20)
        time.sleep(3)
        os._exit(0)
for i in range(100): os.wait()'`, true, -1},
	{"in many middling processes", `for i in 1 2 3 4 5 6 7 8; do python3 -c '
import time
kept = []
for i in range(60):
    kept.append(bytearray(1 << 20))
    time.sleep(0.01)
time.sleep(1)' & done; wait`, true, -1},
}

// TestOutOfMemory uses a sandbox's memory up in many ways, again and again. The sandbox lives with
// its files, whoever took the memory is ended, and the answer says why. A neighbour notices
// little.
func TestOutOfMemory(t *testing.T) {
	s := start(t)
	rounds := testneed.Often(2*len(hogs), 200)
	neighbour := s.spawn(client.SpawnRequest{})
	sandbox := s.spawn(client.SpawnRequest{MemoryMB: 256})
	s.shell(sandbox.ID, "echo kept > /workspace/file; sleep 1000 >/dev/null 2>&1 &")
	sentry := s.Sentries()[sandbox.ID]
	quiet := s.execTimes(neighbour.ID, func(n int) bool { return n < 20 })

	var busy []time.Duration
	ended, took := 0, map[string]time.Duration{}
	for round := range rounds {
		if round == rounds/2 { // the guard needs neither of them, and a new launcher takes it on
			s.strike("both")
			s.up()
		}
		hog := hogs[round%len(hogs)]
		done := make(chan client.ExecResult, 1)
		began := time.Now()
		go func() {
			result, err := s.Exec(t.Context(), sandbox.ID, client.ExecRequest{Command: hog.command, Timeout: "1m"})
			if err != nil {
				t.Errorf("round %d, %s: %v", round, hog.name, err)
			}
			done <- result
		}()
		var result client.ExecResult
		busy = append(busy, s.execTimes(neighbour.ID, func(int) bool {
			select {
			case result = <-done:
				return false
			default:
				return true
			}
		})...)
		took[hog.name] += time.Since(began)
		if oom := result.Reason == "oom"; oom {
			ended++
		}
		if hog.oom != (result.Reason == "oom") || hog.code >= 0 && result.ExitCode != hog.code {
			t.Errorf("round %d, %s: exit code %d, reason %q\n%s", round, hog.name, result.ExitCode, result.Reason, result.Stderr)
		}
		if now := s.Sentries()[sandbox.ID]; now != sentry {
			t.Fatalf("round %d, %s: the sandbox's process was %d and is %d", round, hog.name, sentry, now)
		}
		if text := s.shell(sandbox.ID, "cat /workspace/file"); text != "kept\n" {
			t.Fatalf("round %d, %s: the file holds %q", round, hog.name, text)
		}
	}
	before, during := median(quiet), median(busy)
	t.Logf("%d rounds, %d ended; a neighbour's exec takes %v before and %v meanwhile; %v", rounds, ended, before, during, took)
	if during > 2*before+10*time.Millisecond {
		t.Errorf("a neighbour's exec takes %v before and %v meanwhile", before, during)
	}
}

// crowdHogs use memory up that descriptors alone show, or that comes back late. Each is run in a
// sandbox with 256 MiB.
var crowdHogs = []struct{ name, command string }{
	{"in one call from a mapped file", `exec python3 -c '
import mmap, os, time
f = open("/workspace/source", "rb")
os.write(os.memfd_create("x"), mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ))
time.sleep(20)'`},
	{"in pipes", `exec python3 -c '
import fcntl, os, resource, time
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
while True:
    r, w = os.pipe()
    fcntl.fcntl(w, 1031, 1 << 20)
    os.set_blocking(w, False)
    os.write(w, bytes(1 << 20))'`},
	{"in sockets", `exec python3 -c '
import resource, socket, time
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
kept = []
while True:
    a, b = socket.socketpair()
    a.setblocking(False)
    kept += [a, b]
    try:
        while True: a.send(bytes(64 << 10))
    except BlockingIOError: pass'`},
	{"in connections", `exec python3 -c '
import resource, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
kept, listener = [], socket.create_server(("127.0.0.1", 0))
while True:
    a = socket.create_connection(listener.getsockname())
    kept += [a, listener.accept()[0]]
    a.setblocking(False)
    try:
        while True: a.send(bytes(64 << 10))
    except BlockingIOError: pass'`},
	{"in datagrams", `exec python3 -c '
import resource, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))
kept, sender = [], socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("127.0.0.1", 0))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    kept.append(s)
    for i in range(100): sender.sendto(bytes(60000), s.getsockname())'`},
}

// TestOutOfMemoryBeside uses a sandbox's memory up beside processes that take less of it. Only the
// guilty one is ended.
func TestOutOfMemoryBeside(t *testing.T) {
	s := start(t)
	sandbox := s.spawn(client.SpawnRequest{MemoryMB: 256})
	s.shell(sandbox.ID, "echo kept > /workspace/file; truncate -s 600M /workspace/source")
	sentry := s.Sentries()[sandbox.ID]
	s.shell(sandbox.ID, `for text in 'sleep 1000; :' 'cat /dev/zero | sleep 1000' 'while :; do sleep 0.2; done' \
	'python3 -c "import time; kept = bytearray(40 << 20); time.sleep(1000)"; :'; do
	sh -c "$text" bystander >/dev/null 2>&1 &
done`)
	const bystanders = "ps -A -o pid,args | grep '[b]ystander$' | sort"
	living := s.shell(sandbox.ID, bystanders)
	if n := strings.Count(living, "\n"); n != 4 {
		t.Fatalf("%d of 4 bystanders:\n%s", n, living)
	}
	for round := range testneed.Often(2*len(crowdHogs), 40*len(crowdHogs)) {
		hog := crowdHogs[round%len(crowdHogs)]
		result, err := s.Exec(t.Context(), sandbox.ID, client.ExecRequest{Command: hog.command, Timeout: "1m"})
		if err != nil {
			t.Fatalf("round %d, %s: %v", round, hog.name, err)
		}
		if result.ExitCode != 137 || result.Reason != "oom" {
			t.Errorf("round %d, %s: exit code %d, reason %q\n%s", round, hog.name, result.ExitCode, result.Reason, result.Stderr)
		}
		if now := s.Sentries()[sandbox.ID]; now != sentry {
			t.Fatalf("round %d, %s: the sandbox's process was %d and is %d", round, hog.name, sentry, now)
		}
		left := s.shell(sandbox.ID, bystanders)
		for line := range strings.Lines(living) { // one of them is also seen while it forks
			if !strings.Contains(left, line) {
				t.Fatalf("round %d, %s: there were\n%sand there are\n%s", round, hog.name, living, left)
			}
		}
	}
	if text := s.shell(sandbox.ID, "cat /workspace/file"); text != "kept\n" {
		t.Errorf("the file holds %q", text)
	}
}

// TestFullGroup makes a sandbox's group full, as if its guest had been faster than the guard: it
// stands still until the launcher has raised the limit, and the limit is as before then. The
// second time it is another launcher.
func TestFullGroup(t *testing.T) {
	s := start(t)
	sandbox := s.spawn(client.SpawnRequest{MemoryMB: 256})
	group := memoryGroup(t, s.Sentries()[sandbox.ID])
	limit := number(t, filepath.Join(group, "memory.limit_in_bytes"))
	for _, second := range []bool{false, true} {
		if second {
			s.strike("launcher")
			s.spawn(client.SpawnRequest{}) // brings up another one, which looks for what there is first
		}
		tight := number(t, filepath.Join(group, "memory.usage_in_bytes")) + 4<<20
		if err := os.WriteFile(filepath.Join(group, "memory.limit_in_bytes"), []byte(strconv.FormatInt(tight, 10)), 0); err != nil {
			t.Fatal(err)
		}
		if text := s.shell(sandbox.ID, `python3 -c 'print(len(bytearray(100 << 20)))'`); text != "104857600\n" {
			t.Errorf("second launcher %v: %q", second, text)
		}
		s.until(30*time.Second, "the limit is as before", func() bool {
			return number(t, filepath.Join(group, "memory.limit_in_bytes")) == limit
		})
	}
}

// TestRaisedLimit ends a launcher while it has raised the limit of a sandbox's group: the next one
// lowers it.
func TestRaisedLimit(t *testing.T) {
	t.Parallel()
	s := start(t)
	sandbox := s.spawn(client.SpawnRequest{MemoryMB: 256})
	group := memoryGroup(t, s.Sentries()[sandbox.ID])
	limit := number(t, filepath.Join(group, "memory.limit_in_bytes"))
	s.strike("launcher")
	for _, name := range []string{"memory.memsw.limit_in_bytes", "memory.limit_in_bytes"} {
		path := filepath.Join(group, name)
		if _, err := os.Stat(path); err != nil {
			continue // no accounting of swap
		}
		if err := os.WriteFile(path, []byte(strconv.FormatInt(2*limit, 10)), 0); err != nil {
			t.Fatal(err)
		}
	}
	s.spawn(client.SpawnRequest{}) // brings up another one
	s.until(30*time.Second, "the limit is as before", func() bool {
		return number(t, filepath.Join(group, "memory.limit_in_bytes")) == limit
	})
}

// memoryGroup gives the directory of a process's memory group of version 1.
func memoryGroup(t *testing.T, pid int) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if _, path, ok := strings.Cut(strings.TrimSpace(line), ":memory:"); ok {
			return filepath.Join("/sys/fs/cgroup/memory", path)
		}
	}
	t.Skip("no memory controller of version 1")
	return ""
}

func number(t *testing.T, path string) int64 {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// execTimes runs a short command as long as more says so and gives how long each took.
func (s *server) execTimes(sandbox string, more func(n int) bool) []time.Duration {
	s.t.Helper()
	var times []time.Duration
	for n := 0; more(n) || n == 0; n++ {
		began := time.Now()
		s.shell(sandbox, "true")
		times = append(times, time.Since(began))
	}
	return times
}

func median(times []time.Duration) time.Duration {
	slices.Sort(times)
	return times[len(times)/2]
}

// TestForkBomb lets a sandbox make as many processes as it can. It is refused them in time, and
// what comes after finds room.
func TestForkBomb(t *testing.T) {
	s := start(t)
	sandbox := s.spawn(client.SpawnRequest{MemoryMB: 256})
	s.shell(sandbox.ID, "echo kept > /workspace/file")
	sentry := s.Sentries()[sandbox.ID]
	for _, bomb := range []string{
		`bash -c 'f() { f | f & }; f' >/dev/null 2>&1; sleep 5`,
		`python3 -c '
import os, time
made = 0
try:
    for i in range(100000):
        if os.fork() == 0: time.sleep(20); os._exit(0)
        made += 1
except OSError as e: print(made, e)'`,
	} {
		result, err := s.Exec(t.Context(), sandbox.ID, client.ExecRequest{Command: bomb, Timeout: "5s"})
		t.Logf("exit code %d, reason %q, %v\n%s%.2000s", result.ExitCode, result.Reason, err, result.Stdout, result.Stderr)
		s.until(30*time.Second, "the bomb is over, and the file is there", func() bool {
			_, err := s.Exec(t.Context(), sandbox.ID, client.ExecRequest{Command: "kill -9 -1"})
			if err != nil {
				t.Fatal(err)
			}
			left, err := s.Exec(t.Context(), sandbox.ID, client.ExecRequest{Command: "set -- /proc/[0-9]*; read text < /workspace/file; echo $# $text"})
			return err == nil && left.Stdout == "2 kept\n"
		})
		if now := s.Sentries()[sandbox.ID]; now != sentry {
			t.Fatalf("the sandbox's process was %d and is %d", sentry, now)
		}
	}
}
