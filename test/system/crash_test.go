package system

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/test/harness"
)

// acknowledged is what a create was answered, with the process that runs in it.
type acknowledged struct {
	sandbox client.Sandbox
	process string
}

// TestKillUnderLoad kills server, launcher or both at random while sandboxes are being made. After
// the restart every acknowledged sandbox is there with every field that was answered, or honestly
// unhealthy or in error, none is doubled or there unasked, nothing else is on the host, and the
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
		s.checkRows(round, victim, load.asked)
		s.checkDatabase(round)
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
	asked  map[string]client.SpawnRequest // by what they carry as metadata
	made   []acknowledged
}

// ask makes a request that no other is like, and notes it before it is sent.
func (l *createLoad) ask() client.SpawnRequest {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	n := len(l.asked)
	request := client.SpawnRequest{
		MemoryMB: 256 + n, VCPUs: 1, DiskMB: 512 + n, TTL: (time.Hour + time.Duration(n)*time.Second).String(),
		OwnerID: fmt.Sprint("owner-", n), Metadata: map[string]string{"n": strconv.Itoa(n), "purpose": "Prüfung"},
	}
	l.asked[request.Metadata["n"]] = request
	return request
}

// createLoad makes sandboxes with n clients until it is stopped, at most three each.
func (s *server) createLoad(n int) *createLoad {
	ctx, cancel := context.WithCancel(s.t.Context())
	load := &createLoad{cancel: cancel, asked: map[string]client.SpawnRequest{}}
	for range n {
		load.wait.Go(func() {
			for range 3 {
				if ctx.Err() != nil {
					return
				}
				// Not ctx: what is under way when the server dies is repeated with its idempotency
				// key.
				sandbox, err := s.Spawn(s.t.Context(), load.ask())
				if err != nil {
					continue // not acknowledged
				}
				made := acknowledged{sandbox: sandbox}
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
		id := one.sandbox.ID
		if seen[id] {
			s.t.Errorf("round %d (%s): %s was answered twice", round, victim, id)
		}
		seen[id] = true
		sandbox, err := s.Sandbox(s.t.Context(), id)
		if err != nil {
			s.t.Errorf("round %d (%s): acknowledged %s: %v", round, victim, id, err)
			continue
		}
		if answered := withState(one.sandbox, sandbox); !reflect.DeepEqual(sandbox, answered) {
			s.t.Errorf("round %d (%s): acknowledged\n%+v is\n%+v", round, victim, answered, sandbox)
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
			s.t.Errorf("round %d (%s): acknowledged %s is %s", round, victim, id, sandbox.State)
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

// withState is an answer with what may change of it: the state with its cause, and that it was
// found again.
func withState(answered, now client.Sandbox) client.Sandbox {
	answered.State, answered.Recovered = now.State, now.Recovered
	answered.Reason, answered.Detail, answered.Since = now.Reason, now.Detail, now.Since
	return answered
}

// checkRows demands that every sandbox that is listed was asked for, once, and is what was asked,
// answered or not.
func (s *server) checkRows(round int, victim string, asked map[string]client.SpawnRequest) {
	s.t.Helper()
	sandboxes, err := s.Sandboxes(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, sandbox := range sandboxes {
		n := sandbox.Metadata["n"]
		request, ok := asked[n]
		if !ok || seen[n] {
			s.t.Errorf("round %d (%s): nobody asked for %+v, or it is there twice", round, victim, sandbox)
			continue
		}
		seen[n] = true
		is := client.SpawnRequest{
			MemoryMB: sandbox.MemoryMB, VCPUs: sandbox.VCPUs, DiskMB: sandbox.DiskMB, TTL: request.TTL,
			OwnerID: sandbox.OwnerID, Metadata: sandbox.Metadata,
		}
		// Its time counts from the moment when it runs.
		ttl, err := time.ParseDuration(request.TTL)
		if life := sandbox.ExpiresAt.Sub(sandbox.CreatedAt); err != nil || life < ttl || life > ttl+5*time.Minute {
			s.t.Errorf("round %d (%s): %s were asked for, %s to live: %v", round, victim, request.TTL, life, err)
		}
		if !reflect.DeepEqual(is, request) || sandbox.Provider != "gvisor" || sandbox.Image != "host" {
			s.t.Errorf("round %d (%s): %+v was asked for, %+v is there", round, victim, request, sandbox)
		}
	}
}

// checkDatabase has every page and every reference of the database checked, which a backup does.
func (s *server) checkDatabase(round int) {
	s.t.Helper()
	binary, err := harness.Binary()
	if err != nil {
		s.t.Fatal(err)
	}
	out := filepath.Join(s.Dir, fmt.Sprintf("backup-%d", round))
	backup := exec.Command(binary, "db", "backup", out, "--database", filepath.Join(s.DataDir(), "stacyvm.db"))
	backup.Dir = s.Dir // no configuration file by accident
	if text, err := backup.CombinedOutput(); err != nil {
		s.t.Errorf("round %d: the database is damaged: %v\n%s", round, err, text)
	}
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
			s.t.Errorf("round %d (%s): line %d of %s is %q", round, victim, i, one.sandbox.ID, line)
			return
		}
	}
}

// printed is everything that the process has printed until now.
func (s *server) printed(round int, victim string, one acknowledged) string {
	s.t.Helper()
	var output bytes.Buffer
	for event, err := range s.Output(s.t.Context(), one.sandbox.ID, one.process, client.OutputRequest{NoFollow: true}) {
		switch {
		case err != nil:
			s.t.Errorf("round %d (%s): output of %s: %v", round, victim, one.sandbox.ID, err)
			return output.String()
		case event.Gap > 0:
			s.t.Errorf("round %d (%s): %d bytes of %s are missing", round, victim, event.Gap, one.sandbox.ID)
		case event.Exit != nil:
			s.t.Errorf("round %d (%s): the command in %s ended: %+v", round, victim, one.sandbox.ID, *event.Exit)
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
