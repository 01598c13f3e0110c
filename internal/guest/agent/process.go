package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

const (
	exitTimedOut  = 124
	exitRefused   = 126 // found, but cannot be run
	exitNotFound  = 127
	exitSignalled = 128 // plus the signal's number
	exitUnknown   = 255 // somebody else collected it

	// drainTime is how long, after a process has ended, its streams may stay open before the exit
	// is reported all the same. What the process itself wrote is in the ring by then, however long
	// that takes.
	drainTime = 250 * time.Millisecond
)

// process is one process that was asked for, from its start request until nobody needs its exit
// any more.
type process struct {
	id       string
	about    about
	started  time.Time
	lossless bool
	stdout   *stream
	stderr   *stream // ends at once when there is a terminal
	input    *input
	terminal *os.File // our side; nil: pipes
	ownMark  string   // see descendants
	freezer  freezer
	exits    *exitLog
	timer    *time.Timer // ends it; nil: no timeout
	notifier notifier    // told when there is something new for readers

	ready  chan struct{} // closed when it runs or could not be started
	dead   chan struct{} // closed when it has ended
	exited chan struct{} // closed when its exit is known

	memory, disk int64 // what its output takes, as the table knows

	kills sync.WaitGroup // those that go on; none begins once collected is set

	mu        sync.Mutex
	pid       int
	status    syscall.WaitStatus
	lost      error // why there is no status
	collected bool  // its number may belong to somebody else
	left      bool  // its group had members when it ended: its number stays taken as long as they live
	timedOut  bool
	oom       bool          // it or a descendant was ended for lack of memory
	exit      *guestv1.Exit // without what changes: see report
	ended     time.Time
}

// about is what lists show, cut to a bounded size.
type about struct {
	argv          []string
	label, tag    string
	workdir, user string
}

// collect is called once the process has ended: it takes its status and frees its number.
func (p *process) collect() {
	p.mu.Lock()
	p.status, p.lost = collect(p.pid)
	p.collected = true
	p.left = !errors.Is(unix.Kill(-p.pid, 0), unix.ESRCH)
	p.ended = time.Now()
	p.mu.Unlock()
	p.input.close()
	close(p.dead)
}

// finish reports the exit: when both streams have ended, or drainTime after the process when a
// child that it left behind holds them.
func (p *process) finish(stop <-chan struct{}) {
	<-p.dead
	p.kills.Wait()
	if p.timer != nil {
		p.timer.Stop()
	}
	grace, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	held, killed := false, p.wasKilled()
	for _, s := range p.streams() {
		if killed {
			close(s.killed)
		}
		s.processEnded()
	}
	for _, s := range p.streams() {
		select {
		case <-s.ended:
			continue
		case <-grace.Done():
		case <-stop:
		}
		select {
		case <-s.ended:
		case <-s.drained:
			held = true
		case <-stop:
		}
	}
	p.setExit(p.outcome(held))
}

// wasKilled tells whether a signal or the time limit ended the process.
func (p *process) wasKilled() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.timedOut || p.lost == nil && p.status.Signaled()
}

// outcome turns the kernel's status into an exit.
func (p *process) outcome(held bool) *guestv1.Exit {
	p.mu.Lock()
	defer p.mu.Unlock()
	exit := &guestv1.Exit{
		TimedOut:    p.timedOut,
		Oom:         p.oom,
		StreamsHeld: held,
		DurationUs:  p.ended.Sub(p.started).Microseconds(),
	}
	switch {
	case p.lost != nil:
		exit.Code, exit.Error = exitUnknown, "its status was lost: "+p.lost.Error()
	case p.status.Signaled():
		exit.Signal = int32(p.status.Signal())
		exit.Code = exitSignalled + exit.Signal
	default:
		exit.Code = int32(p.status.ExitStatus())
	}
	if p.timedOut {
		exit.Code = exitTimedOut
	}
	return exit
}

func (p *process) setExit(exit *guestv1.Exit) {
	p.mu.Lock()
	p.exit = exit
	if p.ended.IsZero() {
		p.ended = time.Now()
	}
	p.mu.Unlock()
	close(p.exited)
	p.notifier.broadcast()
	p.exits.add(p.id, exit)
}

// report gives the exit with the streams as they are now, nil while the process runs.
func (p *process) report() *guestv1.Exit {
	p.mu.Lock()
	exit := p.exit
	p.mu.Unlock()
	if exit == nil {
		return nil
	}
	report := &guestv1.Exit{
		Code: exit.Code, Signal: exit.Signal, TimedOut: exit.TimedOut, Oom: exit.Oom, Error: exit.Error,
		StreamsHeld: exit.StreamsHeld, DurationUs: exit.DurationUs,
	}
	_, report.StdoutBytes, report.StdoutSha256 = p.stdout.ring.extent()
	_, report.StderrBytes, report.StderrSha256 = p.stderr.ring.extent()
	return report
}

// describe gives the process as it is now.
func (p *process) describe() *guestv1.Process {
	description := &guestv1.Process{
		Id:        p.id,
		Argv:      p.about.argv,
		Label:     p.about.label,
		Tag:       p.about.tag,
		Workdir:   p.about.workdir,
		User:      p.about.user,
		Terminal:  p.terminal != nil,
		Lossless:  p.lossless,
		StartedUs: p.started.UnixMicro(),
		Exit:      p.report(),
		Stdout:    p.stdout.ring.state(),
		Stderr:    p.stderr.ring.state(),
	}
	p.mu.Lock()
	description.Pid = int64(p.pid)
	if description.Exit != nil {
		description.EndedUs = p.ended.UnixMicro()
	}
	collected := p.collected
	p.mu.Unlock()
	description.StdinOpen = description.Exit == nil && !collected && p.input.open()
	return description
}

var errEnded = connect.NewError(connect.CodeFailedPrecondition, errors.New("the process has ended"))

// signal goes to the process's group. On a terminal it also goes to the foreground group, as a key
// would. SIGKILL ends everything that the process started, and signal returns when it has.
func (p *process) signal(number syscall.Signal) error {
	if number == unix.SIGKILL {
		return p.kill(func() {})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid == 0 || p.collected {
		return errEnded
	}
	foreground := 0
	if p.terminal != nil {
		foreground = p.foregroundGroup()
	}
	if err := unix.Kill(-p.pid, number); err != nil {
		return connect.NewError(connect.CodeFailedPrecondition, fmt.Errorf("signal the process: %w", err))
	}
	if foreground != 0 { // after a shell, so that it does not see its job end
		_ = unix.Kill(-foreground, number)
	}
	return nil
}

// kill ends the process with all its descendants. The exit is reported after that.
func (p *process) kill(begin func()) error {
	all := newDescendants(p.ownMark, p.freezer)
	if !p.addTo(all, begin) {
		return errEnded
	}
	defer p.kills.Done()
	all.kill()
	return nil
}

// addTo adds the process to those that are about to be killed, unless it has ended; p.kills must
// be told when they are.
func (p *process) addTo(all *descendants, begin func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pid == 0 || p.collected {
		return false
	}
	begin()
	p.kills.Add(1)
	all.add(p.pid)
	return true
}

// addLeftTo adds what an ended process left behind in its group and its session.
func (p *process) addLeftTo(all *descendants) {
	p.mu.Lock()
	defer p.mu.Unlock()
	// As long as the group lives its number is no process's: otherwise it is a stranger's.
	if p.pid != 0 && (p.left || p.terminal != nil) && errors.Is(unix.Kill(p.pid, 0), unix.ESRCH) {
		all.addGroup(p.pid)
	}
}

// expire ends the process at its timeout.
func (p *process) expire() {
	_ = p.kill(func() { p.timedOut = true }) // fails when it was faster
}

// hasExited tells whether the exit is known.
func (p *process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

func (p *process) streams() []*stream { return []*stream{p.stdout, p.stderr} }

// written gives how much both streams have had so far.
func (p *process) written() [2]uint64 {
	return [2]uint64{p.stdout.ring.state().Bytes, p.stderr.ring.state().Bytes}
}

// forget drops the output. What a left-behind child still prints is read and thrown away, so that
// the child can go on; a terminal is hung up.
func (p *process) forget() {
	for _, s := range p.streams() {
		s.ring.abandon()
	}
	if p.terminal != nil {
		p.stdout.close()
	}
}
