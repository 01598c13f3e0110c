package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/runsc/container"

	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

const (
	// endFile keeps how a sandbox ended, for whoever asks later, also another launcher.
	endFile = "end.json"
	// otherTime is how long after the end of the sentry or the gofer the other's may be seen: each ends when the other has.
	otherTime = time.Second
)

// watch looks after a sandbox that runs. It notes how it ends, and collects its processes then, so that no dead one stays in
// the machine's table until the sandbox is destroyed. It parks on process handles: no thread waits.
func (s *server) watch(id string, box *container.Container) error {
	sentry, err := openHandle(box.Sandbox.Getpid())
	if err != nil {
		return fmt.Errorf("watch the sentry: %w", err)
	}
	gofer, err := openHandle(box.GoferPid.Load())
	if err != nil {
		sentry.Close()
		return fmt.Errorf("watch the gofer: %w", err)
	}
	if err := watchPressure(id); err != nil {
		log.Warningf("the kernel may end %s when its memory is full: %v", id, err)
	}
	made := readAbout(id).Created
	go func() {
		defer sentry.Close()
		defer gofer.Close()
		status := make(chan exit, 2)
		go func() { status <- sentry.wait("sentry") }()
		go func() { status <- gofer.wait("gofer") }()
		s.ended(id, made, cause(status))
	}()
	return nil
}

// cause gives the exit that explains a sandbox's end: the first that a signal brought about, or else the sentry's. The order
// in which two exits are seen says nothing, since whichever process is left ends at once by itself.
func cause(status <-chan exit) exit {
	first := <-status
	if first.status.Signaled() {
		return first
	}
	select {
	case second := <-status:
		if second.status.Signaled() || second.process == "sentry" {
			return second
		}
	case <-time.After(otherTime):
	}
	return first
}

// exit is the end of one of a sandbox's processes.
type exit struct {
	process string
	at      time.Time
	status  unix.WaitStatus
	known   bool // status is; of a process that an earlier launcher started it is not
}

// process is a handle that the Go runtime polls.
type process struct {
	*os.File
	pid int
}

func openHandle(pid int) (*process, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		return nil, err
	}
	return &process{os.NewFile(uintptr(fd), "process"), pid}, nil
}

// wait returns when the process has ended, and collects it.
func (p *process) wait(name string) exit {
	raw, err := p.SyscallConn()
	if err == nil {
		_ = raw.Read(func(fd uintptr) bool {
			n, _ := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0
		})
	}
	e := exit{process: name, at: time.Now().UTC()}
	got, err := unix.Wait4(p.pid, &e.status, unix.WNOHANG, nil)
	e.known = err == nil && got == p.pid
	return e
}

// ended keeps how a sandbox ended, unless that is known, or it was destroyed: then nothing of it
// is there. made tells it from another one that got its id.
func (s *server) ended(id string, made time.Time, e exit) {
	defer s.locks.lock(id)()
	kept := readAbout(id)
	if kept.Created.IsZero() || !kept.Created.Equal(made) || hasEnd(id) {
		return
	}
	end := s.explain(id, e)
	log.Warningf("sandbox %s ended: %s: %s", id, end.Cause, end.Detail)
	if err := writeJSON(id, endFile, end); err != nil {
		log.Warningf("keep how %s ended: %v", id, err)
	}
}

// explain says why a process of a sandbox ended.
func (s *server) explain(id string, e exit) wire.End {
	end := wire.End{Cause: wire.CauseDied, At: e.at}
	switch name := "its " + e.process; {
	case s.groups.oomKills(id) > 0 && (!e.known || e.status.Signal() == unix.SIGKILL):
		end.Cause, end.Detail = wire.CauseOOM, "the kernel ended "+name+": the sandbox was out of memory"
	case !e.known:
		end.Cause, end.Detail = wire.CauseLauncherGone, name+" ended, nobody knows how: the launcher that had started it was gone"
	case e.status.Signaled() && outside(e.status.Signal()):
		end.Cause, end.Detail = wire.CauseKilled, fmt.Sprintf("%s was ended by signal %d (%s)", name, e.status.Signal(), e.status.Signal())
	case e.status.Signaled():
		end.Detail = fmt.Sprintf("%s ended with signal %d (%s)", name, e.status.Signal(), e.status.Signal())
	default:
		end.Detail = fmt.Sprintf("%s ended with exit status %d", name, e.status.ExitStatus())
	}
	return end
}

// outside tells whether a signal comes from somebody else and is not a fault of the process itself.
func outside(signal unix.Signal) bool {
	switch signal {
	case unix.SIGKILL, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2:
		return true
	default:
		return false
	}
}

// end is how a sandbox ended that does not run. What no launcher saw is told by the machine's boot, by the group's counters
// or not at all.
func (s *server) end(id string, kept about) *wire.End {
	var end wire.End
	if text, err := os.ReadFile(filepath.Join(home(id), endFile)); err == nil && json.Unmarshal(text, &end) == nil {
		return &end
	}
	if kept.Boot != "" && kept.Boot != bootID() {
		return &wire.End{Cause: wire.CauseRebooted, Detail: "the machine was started anew", At: bootTime()}
	}
	end = s.explain(id, exit{process: "sentry"})
	return &end
}

// hasEnd reports whether it is known how a sandbox ended.
func hasEnd(id string) bool {
	_, err := os.Lstat(filepath.Join(home(id), endFile))
	return err == nil
}

// readAbout gives what is kept of a sandbox; the zero value when nothing can be read.
func readAbout(id string) (kept about) {
	if text, err := os.ReadFile(filepath.Join(home(id), aboutFile)); err != nil || json.Unmarshal(text, &kept) != nil {
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

// oomKills is how many processes of a sandbox's group the kernel has ended for lack of memory.
func (g *groups) oomKills(id string) int64 {
	file := "memory.oom_control"
	if g.unified {
		file = "memory.events"
	}
	return readCounter(filepath.Join(g.path("memory", id), file), "oom_kill")
}

// readCounter reads one "name value" line of a file of the kernel's; 0 when it is not there.
func readCounter(path, name string) int64 {
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		log.Warningf("%v", err)
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			if n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64); err == nil {
				return n
			}
		}
	}
	return 0
}
