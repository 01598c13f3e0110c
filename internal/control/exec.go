package control

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/budget"
	"github.com/stacyvm/stacyvm/internal/control/audit"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// MaxKept is what the answer to a command holds of each of its streams, in bytes.
const MaxKept = 16 << 20

// timeoutSlack is how much longer than a command's timeout its guest may take to say so.
const timeoutSlack = 15 * time.Second

// Exec runs a command and gives its output when it has ended, whatever its exit code. A command
// whose caller leaves goes on. CodeInvalid and CodeLimit name the field; CodeNotFound;
// CodeConflict: the sandbox does not run; CodeTimeout: the guest kept silent long after the
// command's timeout; CodeUnavailable.
func (s *Service) Exec(ctx context.Context, id stacyvm.SandboxID, request ExecRequest) (ExecResult, error) {
	request.Lossless = true // all of it is read as fast as it comes
	output, timeout, err := s.run(ctx, id, request)
	if err != nil {
		return ExecResult{}, err
	}
	defer output.Close()
	if timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, timeout+timeoutSlack,
			stacyvm.Errorf(stacyvm.CodeTimeout, "the command did not end %s after its timeout", timeoutSlack))
		defer cancel()
	}
	account := budget.From(ctx)
	result := ExecResult{Stdout: budget.NewBuffer(account), Stderr: budget.NewBuffer(account)}
	for {
		event, err := output.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return result, nil
		case err != nil && ctx.Err() != nil && stacyvm.CodeOf(context.Cause(ctx)) == stacyvm.CodeTimeout:
			return result, context.Cause(ctx)
		case err != nil:
			return result, err
		}
		if !result.add(event) {
			// The command goes on and is read on, so that it does not wait for anybody; its guest
			// keeps what it printed.
			result.Stdout, result.Stderr, result.Elsewhere = budget.Buffer{}, budget.Buffer{}, true
			account.Give()
		}
	}
}

// add collects one event. It reports whether there was room for it.
func (r *ExecResult) add(event stacyvm.OutputEvent) bool {
	switch {
	case event.Started != nil:
		r.Process = *event.Started
	case event.Exit != nil:
		r.Exit = *event.Exit
	case event.Gap > 0:
		r.Truncated = true
	case len(event.Data) > 0 && !r.Elsewhere:
		kept := &r.Stdout
		if event.Stream == stacyvm.Stderr {
			kept = &r.Stderr
		}
		room := min(MaxKept-kept.Len(), len(event.Data))
		r.Truncated = r.Truncated || room < len(event.Data)
		_, err := kept.Write(event.Data[:room])
		return err == nil
	}
	return true
}

// Run starts a command and gives its output as it comes, the started event first. The process
// outlives its reader. Codes as for Exec.
func (s *Service) Run(ctx context.Context, id stacyvm.SandboxID, request ExecRequest) (Output, error) {
	output, _, err := s.run(ctx, id, request)
	if err != nil {
		return nil, err
	}
	return output, nil
}

// run opens the first stream itself, so that a refusal is the answer rather than an event.
func (s *Service) run(
	ctx context.Context, id stacyvm.SandboxID, request ExecRequest,
) (*follower, time.Duration, error) {
	t, command, err := s.admitExec(ctx, id, request)
	if err != nil {
		return nil, 0, s.record(ctx, t, "exec", request.Command, err)
	}
	exec := audit.Exec{Sandbox: t.row.Sandbox, Command: command, Began: time.Now()}
	later := t.later()
	f := s.follow(ctx, later, command.ProcessID, AttachRequest{})
	attach, asked := f.open, false
	f.open = func(ctx context.Context, started bool, from AttachRequest) (Output, error) {
		if started {
			return attach(ctx, started, from)
		}
		client, err := s.connectAgain(ctx, &t, guest.ScopeExec)
		if err != nil {
			return nil, err
		}
		asked = true
		stream, err := client.Run(ctx, command) // the same id again finds the first process
		if err != nil {
			return nil, err
		}
		if err := identify(stream.Started(), command); err != nil {
			_ = stream.Close() // the error before is the one to tell
			return nil, err
		}
		return stream, nil
	}
	if len(request.Input) > 0 {
		f.feed = func(ctx context.Context) { s.feed(ctx, later, command.ProcessID, request.Input) }
	}
	f.ended = func(exit *stacyvm.Exit) {
		if exit == nil { // its reader left
			s.exits.Watch(ctx, exec, s.connector(later))
			return
		}
		s.audit.RecordExit(ctx, exec, exit)
	}
	f.stream, err = f.open(f.ctx, false, f.from)
	if asked && guest.Broken(err) && !silent(err) {
		err = nil // the guest may have been asked: Next tries again
	}
	if err = s.record(ctx, t, "exec", command.Display(), err); err != nil {
		f.cancel()
		return nil, 0, err
	}
	s.audit.RecordStart(ctx, exec)
	return f, command.Timeout, nil
}

// admitExec checks who asks, what for, and that the sandbox runs. The target is given with an
// error too.
func (s *Service) admitExec(
	ctx context.Context, id stacyvm.SandboxID, request ExecRequest,
) (t target, command stacyvm.Command, err error) {
	t = targetOf(ctx, id)
	if err := t.caller.Require(auth.ScopeAPIExec); err != nil {
		return t, command, err
	}
	if err := request.nameByKey(t.caller); err != nil {
		return t, command, err
	}
	if command, err = s.command(request); err != nil {
		return t, command, err
	}
	if err := s.resolve(ctx, &t); err != nil {
		return t, command, err
	}
	return t, command, t.row.usable()
}

// follow makes an Output that attaches to a process, again and again.
func (s *Service) follow(ctx context.Context, t target, process string, from AttachRequest) *follower {
	// The streams must outlive a call of Next but not the request.
	life, cancel := context.WithCancel(ctx)
	return &follower{
		ctx:    life,
		cancel: cancel,
		from:   from,
		open: func(ctx context.Context, _ bool, from AttachRequest) (Output, error) {
			client, err := s.connect(ctx, &t, guest.ScopeExec)
			if err != nil {
				return nil, err
			}
			stream, err := client.Attach(ctx, process, from.StdoutOffset, from.StderrOffset, !from.NoFollow)
			if err != nil {
				return nil, err // without the stream, which would be an Output that is not nil
			}
			return stream, nil
		},
	}
}

// Attach reads a process's output from the given offsets on, and then its exit. CodeNotFound: no
// such sandbox or process.
func (s *Service) Attach(
	ctx context.Context, id stacyvm.SandboxID, process string, request AttachRequest,
) (Output, error) {
	t := targetOf(ctx, id)
	if err := s.admitProcess(ctx, &t, process, auth.ScopeAPIExec); err != nil {
		return nil, err
	}
	f := s.follow(ctx, t, process, request)
	f.started = true
	stream, err := f.open(f.ctx, true, f.from)
	if err != nil {
		f.cancel()
		return nil, err
	}
	f.stream = stream
	return f, nil
}

// Start starts a command and leaves it alone; its output is kept for Attach. It returns when the
// process has taken its input, if it got any. Codes as for Exec.
func (s *Service) Start(
	ctx context.Context, id stacyvm.SandboxID, request ExecRequest,
) (process stacyvm.Process, err error) {
	t, command, err := s.admitExec(ctx, id, request)
	if err != nil {
		return process, s.record(ctx, t, "exec", request.Command, err)
	}
	exec := audit.Exec{Sandbox: t.row.Sandbox, Command: command, Began: time.Now()}
	err = s.ask(ctx, &t, guest.ScopeExec, func(client *guest.Client) error {
		if process, err = client.Start(ctx, command); err != nil {
			return err
		}
		return identify(&process, command)
	})
	if err := s.record(ctx, t, "exec", command.Display(), err); err != nil {
		return process, err
	}
	s.audit.RecordStart(ctx, exec)
	if process.Exit == nil {
		s.exits.Watch(ctx, exec, s.connector(t.later()))
	} else {
		s.audit.RecordExit(ctx, exec, process.Exit)
	}
	if len(request.Input) > 0 {
		s.feed(ctx, t.later(), process.ID, request.Input)
	}
	return process, nil
}
