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
func (s *Service) admitProcess(ctx context.Context, id stacyvm.SandboxID, process, scope string) error {
	if err := auth.From(ctx).Require(scope); err != nil {
		return err
	}
	if _, err := s.resolve(ctx, id); err != nil {
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
func (s *Service) Processes(ctx context.Context, id stacyvm.SandboxID) (processes []stacyvm.Process, err error) {
	if err := auth.From(ctx).Require(auth.ScopeReadSandboxes); err != nil {
		return nil, err
	}
	_, err = s.ask(ctx, id, guest.ScopeExec, func(client *guest.Client) error {
		processes, err = client.Processes(ctx)
		return err
	})
	return processes, err
}

// Process gives one process. CodeNotFound: no such sandbox or process.
func (s *Service) Process(ctx context.Context, id stacyvm.SandboxID, process string) (stacyvm.Process, error) {
	if err := s.admitProcess(ctx, id, process, auth.ScopeReadSandboxes); err != nil {
		return stacyvm.Process{}, err
	}
	processes, err := s.Processes(ctx, id)
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
	if err := s.admitProcess(ctx, id, process, auth.ScopeReadSandboxes); err != nil {
		return ended, err
	}
	// A sandbox that cannot be reached is refused at once; waitFor mends a connection that breaks later.
	_, err = s.ask(ctx, id, guest.ScopeExec, func(client *guest.Client) error {
		_, err := client.Ping(ctx)
		return err
	})
	if err != nil {
		return ended, err
	}
	return s.waitFor(ctx, id, process)
}

// waitFor is Wait without asking who waits.
func (s *Service) waitFor(ctx context.Context, id stacyvm.SandboxID, process string) (ended stacyvm.Process, err error) {
	backoff := retry.Backoff{Within: reconnectWithin}
	for {
		asked := time.Now()
		_, err = s.ask(ctx, id, guest.ScopeExec, func(client *guest.Client) error {
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
