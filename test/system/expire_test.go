package system

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/test/harness"
)

// launcherGrace takes the place of the launcher's two minutes.
const launcherGrace = time.Second

// TestExpiryWithoutServer: what expires while no server runs is ended by the launcher, and by no
// launcher whose server only hangs. The next server tells of it as of any other expiry. What was
// extended, and what has time left, lives.
func TestExpiryWithoutServer(t *testing.T) {
	s := start(t)
	keep := s.spawn(client.SpawnRequest{})
	s.kill(syscall.SIGKILL)
	s.restartLauncher()
	s.up()
	extended := s.extend(s.spawn(client.SpawnRequest{TTL: "5s"}), 10*time.Minute)
	later := s.extend(s.spawn(client.SpawnRequest{}), 12*time.Second)
	short := s.extend(s.spawn(client.SpawnRequest{}), 5*time.Second)

	s.signal(s.PID(), syscall.SIGSTOP)
	for time.Until(short.ExpiresAt) > -3*launcherGrace { // time must pass: nothing is to happen
		time.Sleep(100 * time.Millisecond)
	}
	if s.Sentries()[short.ID] == 0 {
		t.Error("a sandbox was ended while a server was connected")
	}
	s.kill(syscall.SIGKILL)
	s.expectEnded(short)
	s.restartLauncher() // the next one knows what this one was told
	s.expectEnded(later)
	for _, id := range []string{keep.ID, extended.ID} {
		if s.Sentries()[id] == 0 {
			t.Errorf("%s does not run any more; it had time left", id)
		}
	}

	s.up()
	s.until(30*time.Second, "the expired sandboxes are gone", func() bool {
		list, err := s.Sandboxes(t.Context())
		return err == nil && len(list) == 2
	})
	s.shell(keep.ID, "true")
	s.shell(extended.ID, "true")
	s.expectExpired(short, later)
	s.auditSandboxes(2)
}

func (s *server) extend(sandbox client.Sandbox, ttl time.Duration) client.Sandbox {
	s.t.Helper()
	sandbox, err := s.Extend(s.t.Context(), sandbox.ID, ttl)
	if err != nil {
		s.t.Fatal(err)
	}
	return sandbox
}

// restartLauncher puts a launcher with a short grace in place of the one that runs, without any
// server.
func (s *server) restartLauncher() {
	s.t.Helper()
	var program string
	for _, process := range harness.ProcessesOf(s.Dir) {
		if strings.Contains(process.Command, " launch ") {
			program = process.Program
			s.signal(process.PID, syscall.SIGKILL)
		}
	}
	s.until(10*time.Second, "the launcher is gone", func() bool { return s.Launcher() == 0 })
	ctx, cancel := context.WithTimeout(s.t.Context(), 30*time.Second)
	defer cancel()
	launch := exec.CommandContext(ctx, program, "launch", "--dir", filepath.Join(s.DataDir(), "engines", "gvisor"),
		"--build", filepath.Base(filepath.Dir(program)), "--expire-after", launcherGrace.String())
	if output, err := launch.CombinedOutput(); err != nil {
		s.t.Fatalf("start a launcher: %v: %s", err, output)
	}
}

// expectEnded waits until nothing of a sandbox runs and its disk is free, and checks that this
// did not come too early.
func (s *server) expectEnded(sandbox client.Sandbox) {
	s.t.Helper()
	home := filepath.Join(s.DataDir(), "engines", "gvisor", "sandboxes", sandbox.ID)
	s.until(time.Until(sandbox.ExpiresAt)+30*time.Second, "the launcher has ended the expired sandbox", func() bool {
		left, err := filepath.Glob(filepath.Join(home, "*"))
		return err == nil && len(left) == 2 && s.Sentries()[sandbox.ID] == 0
	})
	for _, left := range s.Leftovers() {
		if strings.Contains(left, sandbox.ID) {
			s.t.Errorf("left of the expired sandbox: %s", left)
		}
	}
	var end struct {
		Cause string
		At    time.Time
	}
	text, err := os.ReadFile(filepath.Join(home, "end.json"))
	if err == nil {
		err = json.Unmarshal(text, &end)
	}
	soonest := sandbox.ExpiresAt.Truncate(time.Second).Add(launcherGrace) // the launcher counts whole seconds
	if err != nil || end.Cause != "expired" || end.At.Before(soonest) {
		s.t.Errorf("it expired at %s; its end is %+v, %v", sandbox.ExpiresAt, end, err)
	}
}

// expectExpired checks that sandboxes ended as any that expires while a server runs: in the
// events and in the audit.
func (s *server) expectExpired(sandboxes ...client.Sandbox) {
	s.t.Helper()
	told := map[string][]string{}
	for event, err := range s.Events(s.t.Context(), client.EventsRequest{After: "0", NoFollow: true}) {
		if err != nil {
			s.t.Fatal(err)
		}
		what := event.Type
		if action, ok := event.Data["action"].(string); ok {
			what += " " + action
		}
		if reason, ok := event.Data["reason"].(string); ok {
			what += " " + reason
		}
		told[event.SandboxID] = append(told[event.SandboxID], what)
	}
	for _, sandbox := range sandboxes {
		got := strings.Join(told[sandbox.ID], ", ")
		if !strings.HasSuffix(got, "sandbox.running, sandbox.destroyed, reconcile.action expire") {
			s.t.Errorf("the events of an expired sandbox are %s", got)
		}
	}
}
