package control

import (
	"context"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// connect opens a client of the sandbox's guest program, for one scope. CodeNotFound: no such sandbox; CodeConflict: its
// state does not allow it; CodeUnavailable: its worker or its guest does not answer.
func (s *Service) connect(ctx context.Context, id stacyvm.SandboxID, scope guest.Scope) (*guest.Client, stacyvm.Sandbox, error) {
	for again := false; ; again = true {
		r, err := s.resolve(ctx, id)
		if err != nil {
			return nil, stacyvm.Sandbox{ID: id}, err
		}
		if err := r.usable(); err != nil {
			return nil, r.Sandbox, err
		}
		w, err := s.workers(r.WorkerID)
		if err != nil {
			return nil, r.Sandbox, err
		}
		conn, err := w.Guest(ctx, stacyvm.Ref{ID: id, Fence: r.Fence}, scope)
		switch stacyvm.CodeOf(err) {
		case "":
			return guest.NewClient(conn), r.Sandbox, nil
		case stacyvm.CodeStaleEpoch:
			s.rows.drop(id)
			if !again {
				continue // the cached row was too old
			}
		case stacyvm.CodeNotFound:
			// The row says that it runs: the sandbox exists for the caller, its runtime does not.
			err = stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the sandbox's runtime is not there")
		default: // the worker's own words will do
		}
		return nil, r.Sandbox, err
	}
}

// once connects and does what must not be repeated.
func (s *Service) once(ctx context.Context, id stacyvm.SandboxID, scope guest.Scope, do func(*guest.Client) error) (stacyvm.Sandbox, error) {
	client, sandbox, err := s.connect(ctx, id, scope)
	if err == nil {
		err = do(client)
	}
	return sandbox, err
}

// ask connects and asks once more when the connection turns out to be broken. What it does must be harmless twice.
func (s *Service) ask(ctx context.Context, id stacyvm.SandboxID, scope guest.Scope, question func(*guest.Client) error) (stacyvm.Sandbox, error) {
	sandbox, err := s.once(ctx, id, scope, question)
	if !broken(err) || silent(err) || ctx.Err() != nil {
		return sandbox, err
	}
	s.rows.drop(id)
	return s.once(ctx, id, scope, question)
}
