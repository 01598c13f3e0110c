package gvisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
	"github.com/stacyvm/stacyvm/internal/flock"
	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// startTime bounds the start of a launcher, which looks for the sandboxes of its predecessor
// first: on a slow machine that is busy with other things a quarter of a minute.
const startTime = time.Minute

// startPause is the pause between two looks at whether a start can go on.
const startPause = 10 * time.Millisecond

// call asks the launcher, starting one if none listens. The connection beside the answer is the
// caller's.
func (e *Engine) call(ctx context.Context, request wire.Request) (wire.Answer, net.Conn, error) {
	if err := ctx.Err(); err != nil { // what is not waited for is not begun
		return wire.Answer{}, nil, wrap(err, "the gVisor launcher was not asked")
	}
	conn, err := wire.Dial(ctx, e.config.Dir)
	if err != nil || e.lost() {
		if err == nil {
			conn.Close()
		}
		if err := e.ensure(ctx); err != nil {
			return wire.Answer{}, nil, err
		}
		if conn, err = wire.Dial(ctx, e.config.Dir); err != nil {
			return wire.Answer{}, nil, wrap(err, "the gVisor launcher does not answer")
		}
	}
	defer conn.Close()
	answer, file, err := exchange(ctx, conn, request)
	if err != nil {
		return answer, nil, wrap(err, "the gVisor launcher does not answer")
	}
	passed, err := connection(file)
	if err != nil {
		return answer, nil, wrap(err, "the gVisor launcher passed an unusable descriptor")
	}
	if answer.Failure != "" {
		return answer, nil, failure(answer)
	}
	return answer, passed, nil
}

// exchange sends one request and waits for its answer as long as ctx lasts.
func exchange(ctx context.Context, conn *net.UnixConn, request wire.Request) (wire.Answer, *os.File, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := wire.WriteRequest(conn, request); err != nil {
		return wire.Answer{}, nil, errors.Join(ctx.Err(), err)
	}
	answer, file, err := wire.ReadAnswer(conn)
	if err != nil {
		return answer, nil, errors.Join(ctx.Err(), err)
	}
	return answer, file, nil
}

// connection turns a passed descriptor into a connection; nil stays nil.
func connection(file *os.File) (net.Conn, error) {
	if file == nil {
		return nil, nil
	}
	defer file.Close()
	return net.FileConn(file)
}

// codes says what each failure is to a caller.
var codes = map[wire.Failure]struct {
	code    stacyvm.Code
	message string
}{
	wire.FailureInvalid:     {stacyvm.CodeInternal, "the gVisor launcher refused the request"},
	wire.FailureExists:      {stacyvm.CodeConflict, "a sandbox with this id exists"},
	wire.FailureNotFound:    {stacyvm.CodeNotFound, "no such sandbox"},
	wire.FailureDead:        {stacyvm.CodeUnavailable, "the sandbox does not run"},
	wire.FailureRefused:     {stacyvm.CodeUnavailable, "nothing answers on this port"},
	wire.FailureUnsupported: {stacyvm.CodeUnsupported, "the sandbox takes no such connection"},
	wire.FailureLimits:      {stacyvm.CodeUnavailable, "the machine does not watch the sandbox's memory limit now"},
	wire.FailureDescriptors: {stacyvm.CodeUnavailable, "the gVisor launcher failed"},
}

func failure(answer wire.Answer) error {
	known, ok := codes[answer.Failure]
	if !ok {
		known.code, known.message = stacyvm.CodeInternal, "the gVisor launcher failed"
	}
	return stacyvm.Wrap(known.code, &launcherError{answer.Failure, answer.Error}, known.message)
}

// launcherError is the launcher's own word for logs.
type launcherError struct {
	failure wire.Failure
	text    string
}

func (l *launcherError) Error() string { return l.text }

// Unwrap gives the launcher's error where stacyvm.Wrap has a word of its own for it.
func (l *launcherError) Unwrap() error {
	if l.failure == wire.FailureDescriptors {
		return syscall.EMFILE
	}
	return nil
}

// refused tells whether the launcher answered and left nothing to clean up: in particular a
// sandbox that exists must not be removed because somebody tried to make it again.
func refused(err error) bool {
	var l *launcherError
	return errors.As(err, &l)
}

// ensure makes sure that a launcher runs and that this engine is counted among its clients.
func (e *Engine) ensure(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	// A start is not interrupted: a launcher that nobody waits for would come up in a directory
	// that its caller gives up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTime)
	defer cancel()
	unlock, err := e.lockStart(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if e.hold != nil {
		e.hold.Close()
		e.hold = nil
	}
	build := filepath.Base(filepath.Dir(e.config.Launcher))
	for {
		if err := e.greet(ctx); err == nil {
			if e.greeting.Build == build || e.greeting.Sandboxes > 0 || !e.stop(ctx) {
				return nil
			}
		}
		err := e.start(ctx, build)
		if err == nil {
			return e.greet(ctx)
		}
		if !served(err) {
			return err
		}
		// It was killed and is not gone yet, or a server that was killed had started it and it
		// does not listen yet.
		if retry.Sleep(ctx, startPause) != nil {
			return err
		}
	}
}

// lost reports whether the connection of ensure has ended. A launcher that somebody else started
// since does not know that a server is there, and would end what expires. While another call
// connects, the answer is no.
func (e *Engine) lost() bool {
	if !e.mu.TryLock() {
		return false
	}
	defer e.mu.Unlock()
	return e.hold != nil && wire.Closed(e.hold)
}

// served reports whether a launcher did not start because another has the directory.
func served(err error) bool {
	exit, ok := errors.AsType[*exec.ExitError](err)
	return ok && exit.ExitCode() == wire.ExitServed
}

// lockStart keeps two processes from starting two launchers.
func (e *Engine) lockStart(ctx context.Context) (unlock func(), err error) {
	for {
		lock, err := flock.Try(filepath.Join(e.config.Dir, "start.lock"))
		switch {
		case err == nil:
			return lock.Release, nil
		case !errors.Is(err, flock.ErrLocked):
			return nil, wrap(err, "cannot start the gVisor launcher")
		}
		if retry.Sleep(ctx, startPause) != nil {
			return nil, wrap(errors.Join(ctx.Err(), err), "cannot start the gVisor launcher")
		}
	}
}

// greet opens the connection that keeps the launcher alive.
func (e *Engine) greet(ctx context.Context) error {
	conn, err := wire.Dial(ctx, e.config.Dir)
	if err != nil {
		return wrap(err, "the gVisor launcher does not answer")
	}
	answer, _, err := exchange(ctx, conn, wire.Request{Verb: wire.VerbHello})
	if err == nil && answer.Failure != "" {
		err = failure(answer)
	}
	if err != nil {
		conn.Close()
		return wrap(err, "the gVisor launcher does not answer")
	}
	e.hold, e.greeting = conn, answer
	return nil
}

// stop asks the launcher to end, which it does when it has no sandbox and no other client, and
// waits for its end.
func (e *Engine) stop(ctx context.Context) bool {
	conn := e.hold
	e.hold = nil
	defer conn.Close()
	answer, _, err := exchange(ctx, conn, wire.Request{Verb: wire.VerbStop})
	if err != nil || !answer.Stopping {
		return false
	}
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	_, _ = wire.ReadRequest(conn) // its end closes the connection
	return ctx.Err() == nil
}

// start runs the launcher's program, which returns when the launcher, in a session of its own,
// listens.
func (e *Engine) start(ctx context.Context, build string) error {
	command := exec.CommandContext(ctx, e.config.Launcher, "launch", "--dir", e.config.Dir, "--build", build)
	command.Env = []string{}
	var text bytes.Buffer
	command.Stderr = &text
	if err := command.Run(); err != nil {
		err = fmt.Errorf("%w: %s", err, bytes.TrimSpace(text.Bytes()))
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the gVisor launcher does not start")
	}
	return nil
}

// Close implements engine.Engine: sandboxes stay, and so does a launcher that has any.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.hold == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	e.stop(ctx)
	return nil
}
