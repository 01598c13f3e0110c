package control

import (
	"context"
	"io"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/stacyvm/stacyvm/internal/control/audit"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

const (
	// reachWithin bounds finding a sandbox's worker and guest for one call.
	reachWithin = 4500 * time.Millisecond
	// doubtAfter is how long a call waits for its guest's answer before it asks for a sign of
	// life, and signWithin how long the guest may take for that. Together they stay under
	// reachWithin.
	doubtAfter = 1500 * time.Millisecond
	signWithin = 2500 * time.Millisecond
)

// errMute is the error of a call to a guest that gives no sign of life. As for a silent worker,
// asking again soon would not help.
var errMute = stacyvm.Wrap(stacyvm.CodeUnavailable, worker.ErrSilent, "the sandbox does not answer")

// connect opens a client of the target's guest program, for one scope. It goes by the target's
// row if that is fresh, and reads it else. CodeNotFound: no such sandbox; CodeConflict: its state
// does not allow it; CodeUnavailable: its worker or its guest does not answer.
func (s *Service) connect(ctx context.Context, t *target, scope guest.Scope) (*guest.Client, error) {
	for again := false; ; again = true {
		if !t.fresh {
			if err := s.resolve(ctx, t); err != nil {
				return nil, err
			}
		}
		t.fresh = false
		if err := t.row.usable(); err != nil {
			return nil, err
		}
		w, err := s.workers(t.row.WorkerID)
		if err != nil {
			return nil, err
		}
		ref := stacyvm.Ref{ID: t.row.ID, Fence: t.row.Fence}
		conn, err := reachGuest(ctx, w, ref, scope)
		switch stacyvm.CodeOf(err) {
		case "":
			conn.HTTP = watched{conn.HTTP, func(ctx context.Context) { signOfLife(ctx, w, ref) }}
			return guest.NewClient(conn), nil
		case stacyvm.CodeStaleEpoch:
			s.rows.drop(t.row.ID)
			if !again {
				continue // the row was too old
			}
		case stacyvm.CodeNotFound:
			// The row says that it runs: the sandbox exists for the caller, its runtime does not.
			err = stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the sandbox's runtime is not there")
		default: // the worker's own words will do
		}
		return nil, err
	}
}

// connector opens clients of the target's guest for the exit watcher.
func (s *Service) connector(t target) audit.Connect {
	return func(ctx context.Context) (*guest.Client, error) { return s.connect(ctx, &t, guest.ScopeExec) }
}

// connectAgain connects, and once more when that fails: the row may have been old, or the worker
// was started anew. Nothing has been asked of the guest when it gives an error.
func (s *Service) connectAgain(ctx context.Context, t *target, scope guest.Scope) (*guest.Client, error) {
	client, err := s.connect(ctx, t, scope)
	if !guest.Broken(err) || silent(err) || ctx.Err() != nil {
		return client, err
	}
	s.rows.drop(t.row.ID)
	return s.connect(ctx, t, scope)
}

// reachGuest asks a worker for a guest's connection, and waits no longer than a caller of a
// sandbox that is gone should.
func reachGuest(ctx context.Context, w worker.Worker, ref stacyvm.Ref, scope guest.Scope) (guest.Conn, error) {
	bounded, cancel := context.WithTimeoutCause(ctx, reachWithin, errMute)
	defer cancel()
	conn, err := w.Guest(bounded, ref, scope)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		err = errMute
	}
	return conn, err
}

// signOfLife returns when a guest answers, whatever it says, or with ctx.
func signOfLife(ctx context.Context, w worker.Worker, ref stacyvm.Ref) {
	if conn, err := w.Guest(ctx, ref, guest.ScopeExec); err == nil {
		_, _ = guest.NewClient(conn).Ping(ctx) // a refusal is a sign, too
	}
}

// watched sends requests to a guest. One whose answer does not begin is given up, with errMute,
// when the guest gives no sign of life either: a guest that is only slow, or waits for a program,
// is waited for. It asks once; later, the connection itself is watched.
type watched struct {
	guest.Doer
	sign func(context.Context) // returns when there is one, or with the context
}

// Do implements guest.Doer.
func (w watched) Do(request *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(request.Context())
	var over atomic.Bool // the answer has begun, or the call is given up
	doubt := time.AfterFunc(doubtAfter, func() {
		asking, done := context.WithTimeout(ctx, signWithin)
		defer done()
		w.sign(asking)
		if asking.Err() != nil && ctx.Err() == nil && over.CompareAndSwap(false, true) {
			cancel(errMute)
		}
	})
	response, err := w.Doer.Do(request.WithContext(ctx))
	doubt.Stop()
	if !over.CompareAndSwap(false, true) && request.Context().Err() == nil {
		if err == nil {
			_ = response.Body.Close() // its context has ended
		}
		return nil, errMute
	}
	if err != nil {
		cancel(nil)
		return nil, err
	}
	response.Body = &watchedBody{response.Body, cancel}
	return response, nil
}

// watchedBody ends its request's context when it is closed.
type watchedBody struct {
	io.ReadCloser
	end context.CancelCauseFunc
}

// Close implements io.Closer.
func (b *watchedBody) Close() error {
	defer b.end(nil)
	return b.ReadCloser.Close()
}

// once connects and does what must not be repeated.
func (s *Service) once(ctx context.Context, t *target, scope guest.Scope, do func(*guest.Client) error) error {
	client, err := s.connect(ctx, t, scope)
	if err == nil {
		err = do(client)
	}
	return err
}

// ask connects and asks once more when the connection turns out to be broken. What it does must
// be harmless twice.
func (s *Service) ask(ctx context.Context, t *target, scope guest.Scope, question func(*guest.Client) error) error {
	err := s.once(ctx, t, scope, question)
	if !guest.Broken(err) || silent(err) || ctx.Err() != nil {
		return err
	}
	s.rows.drop(t.row.ID)
	return s.once(ctx, t, scope, question)
}
