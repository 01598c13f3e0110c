package control

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

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
