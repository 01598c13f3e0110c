package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/stacyvm/stacyvm/client"
)

// session joins this program's streams to one process in a sandbox until the process ends. The
// process is the server's: when this program dies it goes on and can be attached again.
type session struct {
	app     *app
	client  *client.Client
	sandbox string
	process string
	input   *client.Input // where standard input is passed on to; nil: it is not
	tty     bool          // the process has a terminal: put ours in raw mode
	from    client.OutputRequest
	// owned: the process was started for this program's output, and ends when nobody reads that
	// any more.
	owned bool
	// patience is how many signals are passed on before the next one gives up waiting; what is
	// said then.
	patience int
	farewell string
}

// newSession joins a process that goes on when this program gives up.
func (a *app) newSession(server *client.Client, sandbox, process string) *session {
	return &session{app: a, client: server, sandbox: sandbox, process: process, patience: 2,
		farewell: fmt.Sprintf("no longer waiting; the process goes on: `stacyvm attach %s %s`", sandbox, process)}
}

// errDetached: the user left with the detach keys.
var errDetached = errors.New("detached")

// run returns the process's exit code.
func (s *session) run(ctx context.Context) (int, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var pumps sync.WaitGroup
	defer pumps.Wait()
	defer cancel(nil)
	if s.tty {
		restore, err := rawTerminal(s.app.stdin)
		if err != nil {
			return 0, err
		}
		defer restore()
		pumps.Go(func() { s.followSize(ctx) })
	}
	if s.input != nil {
		reader, err := newInputReader(s.app.stdin)
		if err != nil {
			return 0, err
		}
		context.AfterFunc(ctx, reader.stop)
		pumps.Go(func() { s.pumpInput(ctx, reader, cancel) })
	}
	exit, err := s.pumpOutput(ctx)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err != nil {
		return 0, err
	}
	return s.verdict(exit), nil
}

// pumpOutput prints until the exit comes.
func (s *session) pumpOutput(ctx context.Context) (*client.Exit, error) {
	for event, err := range s.client.Output(ctx, s.sandbox, s.process, s.from) {
		switch {
		case err != nil:
			return nil, err
		case event.Exit != nil:
			return event.Exit, nil
		case event.Gap > 0:
			s.app.warn("%d bytes of %s are missing here: they were printed too long ago", event.Gap, event.Stream)
			continue
		}
		target := s.app.stdout
		if event.Stream == client.Stderr {
			target = s.app.stderr
		}
		_, err := target.Write(event.Data)
		switch {
		case err == nil:
		case !errors.Is(err, syscall.EPIPE):
			return nil, fmt.Errorf("print output: %w; %s", err, s.farewell)
		case !s.owned:
			return nil, errReported
		default:
			return s.endUnread(ctx)
		}
	}
	return nil, nil // without follow: what was there is printed
}

// unreadWithin is how long a process may take to end after it was told that nobody reads its
// output.
const unreadWithin = time.Second

// endUnread does to the process what a local pipeline would do: who writes to a reader that left
// is told so. One that ignores it would write for ever, so it is told to end. Meanwhile its output
// is thrown away: it must not wait for room.
func (s *session) endUnread(ctx context.Context) (*client.Exit, error) {
	ctx, cancel := context.WithCancel(ctx)
	var telling sync.WaitGroup
	defer telling.Wait()
	defer cancel()
	telling.Go(func() { s.tellUnread(ctx) })
	process, err := s.client.Process(ctx, s.sandbox, s.process)
	if err != nil {
		return nil, err
	}
	rest := client.OutputRequest{StdoutOffset: process.StdoutBytes, StderrOffset: process.StderrBytes}
	for event, err := range s.client.Output(ctx, s.sandbox, s.process, rest) {
		if err != nil || event.Exit != nil {
			return event.Exit, err
		}
	}
	return nil, errReported
}

// tellUnread sends signals until ctx ends, because the process did.
func (s *session) tellUnread(ctx context.Context) {
	for _, signal := range []string{"PIPE", "TERM", "KILL"} {
		err := s.client.Signal(ctx, s.sandbox, s.process, signal)
		if err != nil && client.CodeOf(err) != client.CodeConflict && ctx.Err() == nil {
			s.app.warn("nobody reads the output, and the process cannot be told: %v", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(unreadWithin):
		}
	}
}

// verdict explains an unusual end and gives the exit code.
func (s *session) verdict(exit *client.Exit) int {
	switch {
	case exit == nil:
		return 0
	case exit.TimedOut:
		s.app.warn("the command's time limit passed")
	case exit.Reason == "oom":
		s.app.warn("out of memory: the sandbox ended the command or a process of it")
	case exit.Error != "":
		s.app.warn("the command could not be started: %s", exit.Error)
	}
	return exit.Code
}

// forward passes signals to the process's group until ctx ends. The one after patience gives up
// waiting.
func (s *session) forward(ctx context.Context, signals <-chan os.Signal, giveUp context.CancelFunc) {
	for received := 0; ; received++ {
		select {
		case <-ctx.Done():
			return
		case signal := <-signals:
			if received == s.patience {
				s.app.warn("%s", s.farewell)
				giveUp()
				return
			}
			name := map[os.Signal]string{os.Interrupt: "INT", syscall.SIGHUP: "HUP", syscall.SIGQUIT: "QUIT"}[signal]
			if name == "" {
				name = "TERM"
			}
			if err := s.client.Signal(
				ctx,
				s.sandbox,
				s.process,
				name,
			); err != nil && client.CodeOf(err) != client.CodeConflict &&
				ctx.Err() == nil {
				s.app.warn("pass the signal on: %v", err)
			}
		}
	}
}

// warn prints a note of our own between a command's output.
func (a *app) warn(format string, args ...any) {
	end := "\n"
	if onTerminal(a.stderr) {
		end = "\r\n" // it may be in raw mode
	}
	_, _ = fmt.Fprintf(a.stderr, "stacyvm: "+format+end, args...) // nowhere else to complain
}
