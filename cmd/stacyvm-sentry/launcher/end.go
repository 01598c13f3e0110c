package launcher

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/process"
	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

const (
	// endFile keeps how a sandbox ended, for whoever asks later, also another launcher.
	endFile = "end.json"
	// otherTime is how long after the end of the sentry or the gofer the other's may be seen: each
	// ends when the other has.
	otherTime = time.Second
)

// watch looks after a sandbox that runs: it notes how it ends.
func (s *Server) watch(id string, box Box) error {
	exits, err := s.Processes.Watch(box.Processes())
	if err != nil {
		return fmt.Errorf("watch its processes: %w", err)
	}
	if err := s.Groups.Watch(id); err != nil {
		s.Warn("the kernel may end %s when its memory is full: %v", id, err)
	}
	made := s.readAbout(id).Created
	go func() { s.ended(id, made, cause(exits)) }()
	return nil
}

// cause gives the exit that explains a sandbox's end: the first that a signal brought about, or
// else the sentry's. The order in which two exits are seen says nothing, since whichever process
// is left ends at once by itself.
func cause(status <-chan process.Exit) process.Exit {
	first := <-status
	if first.Status.Signaled() {
		return first
	}
	select {
	case second := <-status:
		if second.Status.Signaled() || second.Process == "sentry" {
			return second
		}
	case <-time.After(otherTime):
	}
	return first
}

// ended keeps how a sandbox ended, unless that is known, or it was destroyed: then nothing of it
// is there. made tells it from another one that got its id.
func (s *Server) ended(id string, made time.Time, e process.Exit) {
	defer s.locks.lock(id)()
	kept := s.readAbout(id)
	if kept.Created.IsZero() || !kept.Created.Equal(made) || s.hasEnd(id) {
		return
	}
	end := s.explain(id, e)
	s.Warn("sandbox %s ended: %s: %s", id, end.Cause, end.Detail)
	if err := s.writeJSON(id, endFile, end); err != nil {
		s.Warn("keep how %s ended: %v", id, err)
	}
}

// explain says why a process of a sandbox ended.
func (s *Server) explain(id string, e process.Exit) wire.End {
	end := wire.End{Cause: wire.CauseDied, At: e.At}
	switch name := "its " + e.Process; {
	case s.Groups.OOMKills(id) > 0 && (!e.Known || e.Status.Signal() == unix.SIGKILL):
		end.Cause, end.Detail = wire.CauseOOM, "the kernel ended "+name+": the sandbox was out of memory"
	case !e.Known:
		end.Cause, end.Detail = wire.CauseLauncherGone, name+" ended, nobody knows how: the launcher that had started it was gone"
	case e.Status.Signaled() && outside(e.Status.Signal()):
		end.Cause, end.Detail = wire.CauseKilled, fmt.Sprintf(
			"%s was ended by signal %d (%s)",
			name,
			e.Status.Signal(),
			e.Status.Signal(),
		)
	case e.Status.Signaled():
		end.Detail = fmt.Sprintf("%s ended with signal %d (%s)", name, e.Status.Signal(), e.Status.Signal())
	default:
		end.Detail = fmt.Sprintf("%s ended with exit status %d", name, e.Status.ExitStatus())
	}
	return end
}

// outside tells whether a signal comes from somebody else and is not a fault of the process
// itself.
func outside(signal unix.Signal) bool {
	switch signal {
	case unix.SIGKILL, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2:
		return true
	default:
		return false
	}
}

// end is how a sandbox ended that does not run. What no launcher saw is told by the machine's
// boot, by the group's counters or not at all.
func (s *Server) end(id string, kept about) *wire.End {
	var end wire.End
	if text, err := os.ReadFile(filepath.Join(s.home(id), endFile)); err == nil && json.Unmarshal(text, &end) == nil {
		return &end
	}
	if kept.Boot != "" && kept.Boot != bootID() {
		return &wire.End{Cause: wire.CauseRebooted, Detail: "the machine was started anew", At: bootTime()}
	}
	end = s.explain(id, process.Exit{Process: "sentry"})
	return &end
}

// hasEnd reports whether it is known how a sandbox ended.
func (s *Server) hasEnd(id string) bool {
	_, err := os.Lstat(filepath.Join(s.home(id), endFile))
	return err == nil
}

// readAbout gives what is kept of a sandbox; the zero value when nothing can be read.
func (s *Server) readAbout(id string) (kept about) {
	if text, err := os.ReadFile(
		filepath.Join(s.home(id), aboutFile),
	); err != nil ||
		json.Unmarshal(text, &kept) != nil {
		return about{}
	}
	return kept
}

// bootID names the machine's present boot; empty when the kernel does not tell.
func bootID() string {
	text, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// bootTime is when the machine was started; zero when the kernel does not tell.
func bootTime() time.Time {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "btime "); ok {
			if seconds, err := strconv.ParseInt(strings.TrimSpace(value), 10, 64); err == nil {
				return time.Unix(seconds, 0).UTC()
			}
		}
	}
	return time.Time{}
}
