package launcher

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/process"
	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

// Statuses as wait(2) gives them.
func exited(code int) unix.WaitStatus             { return unix.WaitStatus(code << 8) }
func signaled(signal unix.Signal) unix.WaitStatus { return unix.WaitStatus(signal) }

func ended(name string, status unix.WaitStatus) process.Exit {
	return process.Exit{Process: name, Status: status, Known: true}
}

// TestCause: whichever of two exits is seen first, the one that explains the end is told.
func TestCause(t *testing.T) {
	sentryKilled, goferKilled := ended("sentry", signaled(unix.SIGKILL)), ended("gofer", signaled(unix.SIGKILL))
	sentryLeft, goferLeft := ended("sentry", exited(137)), ended("gofer", exited(1))
	unknown := process.Exit{Process: "sentry"}
	for _, test := range []struct {
		name          string
		first, second process.Exit
		want          process.Exit
	}{
		{"the sentry is killed, the gofer leaves", sentryKilled, goferLeft, sentryKilled},
		{"the gofer leaves, the sentry was killed", goferLeft, sentryKilled, sentryKilled},
		{"the gofer is killed, the sentry leaves", goferKilled, sentryLeft, goferKilled},
		{"the sentry leaves, the gofer was killed", sentryLeft, goferKilled, goferKilled},
		{"the sentry leaves, the gofer too", sentryLeft, goferLeft, sentryLeft},
		{"the gofer leaves, the sentry too", goferLeft, sentryLeft, sentryLeft},
		{"nobody knows the sentry's status", goferLeft, unknown, unknown},
	} {
		exits := make(chan process.Exit, 2)
		exits <- test.first
		exits <- test.second
		if got := cause(exits); got != test.want {
			t.Errorf("%s: %+v", test.name, got)
		}
	}
}

// TestCauseAlone: an exit that stays the only one is told after a while, and one by a signal at
// once.
func TestCauseAlone(t *testing.T) {
	for _, test := range []struct {
		exit  process.Exit
		waits time.Duration
	}{
		{ended("sentry", signaled(unix.SIGSEGV)), 0},
		{ended("sentry", exited(2)), otherTime},
		{ended("gofer", exited(2)), otherTime},
	} {
		synctest.Test(t, func(t *testing.T) {
			exits, began := make(chan process.Exit, 2), time.Now()
			exits <- test.exit
			if got := cause(exits); got != test.exit || time.Since(began) != test.waits {
				t.Errorf("%+v after %v", got, time.Since(began))
			}
		})
	}
}

func TestExplain(t *testing.T) {
	for _, test := range []struct {
		exit   process.Exit
		ooms   int64
		cause  wire.Cause
		detail string
	}{
		{ended("sentry", signaled(unix.SIGKILL)), 0, wire.CauseKilled, "its sentry was ended by signal 9 (killed)"},
		{ended("sentry", signaled(unix.SIGKILL)), 1, wire.CauseOOM, "the kernel ended its sentry"},
		{ended("gofer", signaled(unix.SIGKILL)), 1, wire.CauseOOM, "the kernel ended its gofer"},
		{ended("gofer", signaled(unix.SIGTERM)), 1, wire.CauseKilled, "its gofer was ended by signal 15"},
		{ended("sentry", signaled(unix.SIGSEGV)), 1, wire.CauseDied, "its sentry ended with signal 11"},
		{ended("sentry", signaled(unix.SIGABRT)), 0, wire.CauseDied, "its sentry ended with signal 6"},
		{ended("sentry", exited(137)), 1, wire.CauseDied, "its sentry ended with exit status 137"},
		{ended("sentry", exited(0)), 0, wire.CauseDied, "its sentry ended with exit status 0"},
		{process.Exit{Process: "sentry"}, 0, wire.CauseLauncherGone, "nobody knows how"},
		{process.Exit{Process: "sentry"}, 2, wire.CauseOOM, "the kernel ended its sentry"},
	} {
		groups := &fakeGroups{ooms: test.ooms}
		end := (&Server{Config: Config{Groups: groups}}).explain("sb", test.exit)
		if end.Cause != test.cause || !strings.Contains(end.Detail, test.detail) {
			t.Errorf("%+v, %d kills by the kernel: %+v", test.exit, test.ooms, end)
		}
	}
}

// TestEnded: an end is kept once, and not for another sandbox that got the same id.
func TestEnded(t *testing.T) {
	s, f := newServer(t)
	f.create("sb")
	made := s.readAbout("sb").Created
	s.ended("sb", made.Add(-time.Second), ended("sentry", exited(1)))
	if s.hasEnd("sb") {
		t.Error("the end of another sandbox is kept")
	}
	s.ended("sb", made, ended("sentry", exited(1)))
	s.ended("sb", made, ended("sentry", exited(2)))
	f.processes.end("sb")
	if end := s.examine("sb").End; end == nil || !strings.Contains(end.Detail, "status 1") {
		t.Errorf("%+v", end)
	}
	s.ended("none", made, ended("sentry", exited(1))) // it was destroyed
	if _, err := s.status("none"); err == nil {
		t.Error("there is a record of a sandbox that was destroyed")
	}
}

// TestWatch: the end of a process is noted as it happens; after a reboot, which nobody saw, it is
// told by the boot.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, f := newServer(t)
		f.create("sb")
		f.processes.exits["sb"] <- ended("gofer", exited(1))
		f.processes.exits["sb"] <- ended("sentry", signaled(unix.SIGKILL))
		f.processes.end("sb")
		synctest.Wait()
		if end := s.examine("sb").End; end == nil || end.Cause != wire.CauseKilled {
			t.Errorf("%+v", end)
		}
		f.create("old")
		kept := s.readAbout("old")
		kept.Boot = "another"
		if err := s.writeJSON("old", aboutFile, kept); err != nil {
			t.Fatal(err)
		}
		f.processes.end("old")
		if end := s.examine("old").End; end == nil || end.Cause != wire.CauseRebooted {
			t.Errorf("%+v", end)
		}
		f.finish()
	})
}
