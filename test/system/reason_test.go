package system

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/test/harness"
)

// death is one way in which a runtime ends.
type death struct {
	reason, detail string
	end            func(id string, sentry int)
}

// TestDeathsTellWhy ends runtimes in each way that a machine knows. The object, the event and the
// log then say why and when.
func TestDeathsTellWhy(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.die(death{"killed", "sentry was ended by signal 9", func(_ string, sentry int) { s.signal(sentry, syscall.SIGKILL) }},
		death{"killed", "gofer was ended by signal 9", func(id string, _ int) { s.signal(s.gofer(id), syscall.SIGKILL) }})
	s.die(death{"launcher_gone", "nobody knows", func(_ string, sentry int) {
		s.strike("launcher")
		s.signal(sentry, syscall.SIGKILL)
	}})
	s.die(death{"machine_rebooted", "started anew", func(id string, sentry int) {
		s.strike("launcher")
		s.forgeBoot(id)
		s.signal(sentry, syscall.SIGKILL)
	}})
}

// die makes a sandbox for each death, ends it and checks what is said of it.
func (s *server) die(deaths ...death) {
	s.t.Helper()
	var sandboxes []client.Sandbox
	for range deaths {
		sandboxes = append(sandboxes, s.spawn(client.SpawnRequest{}))
	}
	before := time.Now()
	for i, d := range deaths {
		d.end(sandboxes[i].ID, s.Sentries()[sandboxes[i].ID])
	}
	for i, d := range deaths {
		var dead client.Sandbox
		s.until(30*time.Second, "the death is seen", func() bool {
			var err error
			dead, err = s.Sandbox(s.t.Context(), sandboxes[i].ID)
			return err == nil && dead.State == "error"
		})
		if dead.Reason != d.reason || !strings.Contains(dead.Detail, d.detail) {
			s.t.Errorf("reason %q, detail %q; want %q with %q", dead.Reason, dead.Detail, d.reason, d.detail)
		}
		if dead.Since.After(time.Now()) || d.reason != "machine_rebooted" && dead.Since.Before(before) {
			s.t.Errorf("%s since %s; it was ended after %s", d.reason, dead.Since, before)
		}
		s.expectEvent(dead)
		warned := false
		for line := range strings.Lines(s.Log()) {
			warned = warned || strings.Contains(line, "WARN") && strings.Contains(line, dead.ID) && strings.Contains(line, d.reason)
		}
		if !warned {
			s.t.Errorf("no warning in the log:\n%s", s.Log())
		}
	}
}

// gofer gives the process that serves a sandbox's files; 0: there is none.
func (s *server) gofer(id string) int {
	for _, process := range harness.ProcessesOf(s.Dir) {
		if strings.Contains(process.Command, " gofer ") && strings.Contains(process.Command, id) {
			return process.PID
		}
	}
	return 0
}

func (s *server) signal(pid int, signal syscall.Signal) {
	s.t.Helper()
	if pid == 0 {
		s.t.Fatal("no such process")
	}
	if err := syscall.Kill(pid, signal); err != nil {
		s.t.Fatal(err)
	}
}

// forgeBoot makes the launcher's record of a sandbox one of another boot of the machine.
func (s *server) forgeBoot(id string) {
	s.t.Helper()
	path := filepath.Join(s.DataDir(), "engines", "gvisor", "sandboxes", id, "about.json")
	text, err := os.ReadFile(path)
	if err != nil {
		s.t.Fatal(err)
	}
	var about map[string]any
	if err := json.Unmarshal(text, &about); err != nil {
		s.t.Fatal(err)
	}
	about["boot"] = "another"
	if text, err = json.Marshal(about); err == nil {
		err = os.WriteFile(path, text, 0o600)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// expectEvent looks for the event that tells of a sandbox's death.
func (s *server) expectEvent(dead client.Sandbox) {
	s.t.Helper()
	for event, err := range s.Events(s.t.Context(), client.EventsRequest{After: "0", NoFollow: true}) {
		if err != nil {
			s.t.Fatal(err)
		}
		if event.SandboxID != dead.ID || event.Type != "sandbox.error" {
			continue
		}
		since, _ := event.Data["since"].(string)
		at, err := time.Parse(time.RFC3339Nano, since)
		if event.Data["reason"] != dead.Reason || event.Data["detail"] != dead.Detail || err != nil || !at.Equal(dead.Since) {
			s.t.Errorf("the event says %v, the sandbox %+v", event.Data, dead)
		}
		return
	}
	s.t.Error("no event tells of the death")
}
