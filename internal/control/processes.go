package control

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// admitProcess checks who asks and the form of a process id; a malformed one names no process.
func (s *Service) admitProcess(ctx context.Context, t *target, process, scope string) error {
	if err := t.caller.Require(scope); err != nil {
		return err
	}
	if err := s.resolve(ctx, t); err != nil {
		return err
	}
	if !processID.MatchString(process) {
		return noProcess(process)
	}
	return nil
}

func noProcess(process string) error {
	return stacyvm.Errorf(stacyvm.CodeNotFound, "process %.64q does not exist", process)
}

// Processes lists what runs and what has ended and is still kept, oldest first.
func (s *Service) Processes(ctx context.Context, id stacyvm.SandboxID) ([]stacyvm.Process, error) {
	t := targetOf(ctx, id)
	if err := t.caller.Require(auth.ScopeReadSandboxes); err != nil {
		return nil, err
	}
	return s.processes(ctx, &t)
}

func (s *Service) processes(ctx context.Context, t *target) (processes []stacyvm.Process, err error) {
	err = s.ask(ctx, t, guest.ScopeExec, func(client *guest.Client) error {
		processes, err = client.Processes(ctx)
		return err
	})
	return processes, err
}

// Process gives one process. CodeNotFound: no such sandbox or process.
func (s *Service) Process(ctx context.Context, id stacyvm.SandboxID, process string) (stacyvm.Process, error) {
	t := targetOf(ctx, id)
	if err := s.admitProcess(ctx, &t, process, auth.ScopeReadSandboxes); err != nil {
		return stacyvm.Process{}, err
	}
	processes, err := s.processes(ctx, &t)
	if err != nil {
		return stacyvm.Process{}, err
	}
	for _, p := range processes {
		if p.ID == process {
			return p, nil
		}
	}
	return stacyvm.Process{}, noProcess(process)
}

// Wait returns when a process has ended, or with the context.
func (s *Service) Wait(ctx context.Context, id stacyvm.SandboxID, process string) (ended stacyvm.Process, err error) {
	t := targetOf(ctx, id)
	if err := s.admitProcess(ctx, &t, process, auth.ScopeReadSandboxes); err != nil {
		return ended, err
	}
	// A sandbox that cannot be reached is refused at once; waitFor mends a connection that breaks
	// later.
	err = s.ask(ctx, &t, guest.ScopeExec, func(client *guest.Client) error {
		_, err := client.Ping(ctx)
		return err
	})
	if err != nil {
		return ended, err
	}
	return s.waitFor(ctx, t, process)
}

// waitFor is Wait without asking who waits.
func (s *Service) waitFor(ctx context.Context, t target, process string) (ended stacyvm.Process, err error) {
	backoff := retry.Backoff{Within: reconnectWithin}
	for {
		asked := time.Now()
		err = s.ask(ctx, &t, guest.ScopeExec, func(client *guest.Client) error {
			ended, err = client.Wait(ctx, process)
			return err
		})
		if !guest.Broken(err) || ctx.Err() != nil {
			return ended, err
		}
		if time.Since(asked) > reconnectWithin { // it was well until now
			backoff.Reset()
		}
		if backoff.Over() || backoff.Wait(ctx) != nil {
			return ended, err
		}
	}
}

// maxLogLines is what a guest keeps and gives at most.
const maxLogLines = 10_000

// Logs gives the last lines that the sandbox's processes printed, in their order.
func (s *Service) Logs(ctx context.Context, id stacyvm.SandboxID, lines int) (tail []string, err error) {
	t := targetOf(ctx, id)
	if err := t.caller.Require(auth.ScopeReadSandboxes); err != nil {
		return nil, err
	}
	if lines < 1 || lines > maxLogLines {
		return nil, stacyvm.Invalid("lines", "must be between 1 and %d", maxLogLines)
	}
	err = s.ask(ctx, &t, guest.ScopeLogs, func(client *guest.Client) error {
		tail, err = client.Tail(ctx, lines)
		return err
	})
	return tail, err
}

// Stats gives a sandbox's use of resources, as its guest counts it.
func (s *Service) Stats(ctx context.Context, id stacyvm.SandboxID) (stats stacyvm.Stats, err error) {
	t := targetOf(ctx, id)
	if err := t.caller.Require(auth.ScopeReadSandboxes); err != nil {
		return stats, err
	}
	err = s.ask(ctx, &t, guest.ScopeExec, func(client *guest.Client) error {
		stats, err = client.Stats(ctx)
		return err
	})
	return stats, err
}
