package system

import (
	"bytes"
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
)

// acknowledged is a sandbox whose create was answered, with the process that runs in it.
type acknowledged struct{ sandbox, process string }

// TestKillUnderLoad kills server, launcher or both at random while sandboxes are being made. After the restart every
// acknowledged sandbox is there, or honestly unhealthy or in error, none is doubled, nothing else is on the host, and the
// commands of the surviving ones go on with their whole output.
func TestKillUnderLoad(t *testing.T) {
	s := start(t)
	rounds := 25
	if text := os.Getenv("STACYVM_TEST_KILLS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		rounds = n
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	survivors, honest := 0, 0
	for round := range rounds {
		load := s.createLoad(3)
		time.Sleep(time.Duration(100+random.IntN(1400)) * time.Millisecond) // the random moment of the kill
		victim := []string{"server", "launcher", "both"}[random.IntN(3)]
		s.strike(victim)
		if !s.Running() {
			s.up()
		}
		made := load.stop()
		alive, dead := s.checkAcknowledged(round, victim, made)
		survivors, honest = survivors+alive, honest+dead
		s.clear()
	}
	t.Logf("%d acknowledged sandboxes lived through their kill, %d were reported as lost", survivors, honest)
	if survivors == 0 {
		t.Error("no sandbox ever survived: the test proves nothing")
	}
}

// strike kills with SIGKILL.
func (s *server) strike(victim string) {
	s.t.Helper()
	if victim != "server" {
		if pid := s.Launcher(); pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if victim != "launcher" {
		s.kill(syscall.SIGKILL)
	}
}

type createLoad struct {
	cancel context.CancelFunc
	wait   sync.WaitGroup
	mutex  sync.Mutex
	made   []acknowledged
}

// createLoad makes sandboxes with n clients until it is stopped, at most three each.
func (s *server) createLoad(n int) *createLoad {
	ctx, cancel := context.WithCancel(s.t.Context())
	load := &createLoad{cancel: cancel}
	for range n {
		load.wait.Go(func() {
			for range 3 {
				if ctx.Err() != nil {
					return
				}
				// Not ctx: what is under way when the server dies is repeated with its idempotency key.
				sandbox, err := s.Spawn(s.t.Context(), client.SpawnRequest{MemoryMB: 256})
				if err != nil {
					continue // not acknowledged
				}
				made := acknowledged{sandbox: sandbox.ID}
				process, err := s.Start(s.t.Context(), sandbox.ID, client.ExecRequest{
					Command: "i=0; while :; do echo $i; i=$((i+1)); sleep 0.05; done"})
				if err == nil {
					made.process = process.ID
				}
				load.mutex.Lock()
				load.made = append(load.made, made)
				load.mutex.Unlock()
			}
		})
	}
	return load
}

func (l *createLoad) stop() []acknowledged {
	l.cancel()
	l.wait.Wait()
	return l.made
}

func (s *server) checkAcknowledged(round int, victim string, made []acknowledged) (alive, dead int) {
	s.t.Helper()
	seen := map[string]bool{}
	for _, one := range made {
		if seen[one.sandbox] {
			s.t.Errorf("round %d (%s): %s was answered twice", round, victim, one.sandbox)
		}
		seen[one.sandbox] = true
		sandbox, err := s.Sandbox(s.t.Context(), one.sandbox)
		if err != nil {
			s.t.Errorf("round %d (%s): acknowledged %s: %v", round, victim, one.sandbox, err)
			continue
		}
		switch sandbox.State {
		case "unhealthy", "error":
			dead++
		case "running":
			alive++
			if one.process != "" {
				s.checkCounter(round, victim, one)
			}
		default:
			s.t.Errorf("round %d (%s): acknowledged %s is %s", round, victim, one.sandbox, sandbox.State)
		}
	}
	// What is on the host is what the rows say, within 90 s.
	s.until(90*time.Second, "the host holds the running sandboxes and no other", func() bool {
		sandboxes, err := s.Sandboxes(s.t.Context())
		if err != nil {
			return false
		}
		running := map[string]bool{}
		for _, sandbox := range sandboxes {
			if sandbox.State == "creating" {
				return false
			}
			if sandbox.State == "running" {
				running[sandbox.ID] = true
			}
		}
		sentries := s.Sentries()
		for id := range sentries {
			if !running[id] {
				return false
			}
		}
		return len(sentries) == len(running)
	})
	return alive, dead
}

// checkCounter demands that the process still runs and printed 0, 1, 2, … from its first byte.
func (s *server) checkCounter(round int, victim string, one acknowledged) {
	s.t.Helper()
	var output string
	// One that has only just begun has printed nothing yet.
	s.until(30*time.Second, "the command has printed something", func() bool {
		output = s.printed(round, victim, one)
		return output != "" || s.t.Failed()
	})
	lines := strings.Split(strings.TrimSuffix(output, "\n"), "\n")
	for i, line := range lines {
		if line != strconv.Itoa(i) {
			s.t.Errorf("round %d (%s): line %d of %s is %q", round, victim, i, one.sandbox, line)
			return
		}
	}
}

// printed is everything that the process has printed until now.
func (s *server) printed(round int, victim string, one acknowledged) string {
	s.t.Helper()
	var output bytes.Buffer
	for event, err := range s.Output(s.t.Context(), one.sandbox, one.process, client.OutputRequest{NoFollow: true}) {
		switch {
		case err != nil:
			s.t.Errorf("round %d (%s): output of %s: %v", round, victim, one.sandbox, err)
			return output.String()
		case event.Gap > 0:
			s.t.Errorf("round %d (%s): %d bytes of %s are missing", round, victim, event.Gap, one.sandbox)
		case event.Exit != nil:
			s.t.Errorf("round %d (%s): the command in %s ended: %+v", round, victim, one.sandbox, *event.Exit)
		default:
			output.Write(event.Data)
		}
	}
	return output.String()
}

// clear destroys every sandbox.
func (s *server) clear() {
	s.t.Helper()
	sandboxes, err := s.Sandboxes(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	for _, sandbox := range sandboxes {
		if err := s.Destroy(s.t.Context(), sandbox.ID); err != nil && client.CodeOf(err) != "NOT_FOUND" {
			s.t.Errorf("destroy %s (%s): %v", sandbox.ID, sandbox.State, err)
		}
	}
	s.auditSandboxes(0)
}
