package control

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// maxInput is what a guest takes in one call, in bytes.
const maxInput = 1 << 20

// Input writes to a process's standard input and gives the number of bytes that it has taken in
// all. With an offset a retry is harmless. CodeTooLarge: over 1 MiB; CodeConflict: the input is
// closed; CodeNotFound: no such process.
func (s *Service) Input(
	ctx context.Context, id stacyvm.SandboxID, process string, request InputRequest,
) (received uint64, err error) {
	if len(request.Data) > maxInput {
		return 0, stacyvm.Errorf(stacyvm.CodeTooLarge, "data: %d bytes are over %d", len(request.Data), maxInput)
	}
	t := targetOf(ctx, id)
	if err := s.admitProcess(ctx, &t, process, auth.ScopeAPIExec); err != nil {
		return 0, err
	}
	err = s.once(ctx, &t, guest.ScopeExec, func(client *guest.Client) error {
		received, err = client.Input(ctx, process, request.Data, request.Offset, request.Close)
		return err
	})
	return received, err
}

// feed gives a process its whole input and closes it. It ends early when the process no longer
// takes any.
func (s *Service) feed(ctx context.Context, t target, process string, input []byte) {
	sent := uint64(0)
	backoff := retry.Backoff{Within: reconnectWithin}
	for {
		part := input[sent:min(sent+maxInput, uint64(len(input)))]
		last := sent+uint64(len(part)) == uint64(len(input))
		err := s.ask(ctx, &t, guest.ScopeExec, func(client *guest.Client) error {
			_, err := client.Input(ctx, process, part, &sent, last)
			return err
		})
		switch {
		case err == nil && last:
			return
		case err == nil:
			sent += uint64(len(part))
			backoff.Reset()
		case !guest.Broken(err) || backoff.Over() || backoff.Wait(ctx) != nil:
			return // it has ended or closed its input, or its reader left; what it took stays with it
		}
	}
}

// Signal sends a signal to a process's whole group; KILL ends everything that the process
// started. CodeInvalid: no such signal; CodeConflict: it has ended.
func (s *Service) Signal(ctx context.Context, id stacyvm.SandboxID, process string, signal int) error {
	t := targetOf(ctx, id)
	err := s.admitProcess(ctx, &t, process, auth.ScopeAPIExec)
	if err == nil && (signal < 1 || signal > 64) {
		err = stacyvm.Invalid("signal", "must be between 1 and 64")
	}
	if err == nil {
		err = s.once(ctx, &t, guest.ScopeExec,
			func(client *guest.Client) error { return client.Signal(ctx, process, signal) })
	}
	return s.record(ctx, t, "process.signal", process, err)
}

// Resize changes the window of a process that has a terminal. CodeConflict: it has none.
func (s *Service) Resize(ctx context.Context, id stacyvm.SandboxID, process string, terminal stacyvm.Terminal) error {
	t := targetOf(ctx, id)
	if err := s.admitProcess(ctx, &t, process, auth.ScopeAPIExec); err != nil {
		return err
	}
	if err := checkTerminal(&terminal); err != nil {
		return err
	}
	return s.ask(ctx, &t, guest.ScopeExec, func(client *guest.Client) error {
		return client.Resize(ctx, process, terminal)
	})
}
