package remote

// How a call is made. watch is the watchdog of each: it ends a call to a worker that is silent,
// and never one to a worker that is slow. retryOnce is for calls that change nothing, cancellable
// for those that must be undone when their caller goes.

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

const (
	// doubtAfter is how long a call waits for its worker before it asks for a sign of life, and
	// the pause before it asks again.
	doubtAfter = 2 * time.Second
	// aliveWithin is how long a worker may take for the sign. One that gives none is waited for no
	// longer: a control plane waits 4.5 s for a sandbox, and is to hear that the worker is silent.
	aliveWithin = 2 * time.Second
)

// watch gives the context of a call, which ends when the worker gives no sign of life before
// answered is called. A worker that is slow is waited for. end follows the call.
func (c *Client) watch(ctx context.Context) (watched context.Context, answered, end func()) {
	watched, cancel := context.WithCancelCause(ctx)
	asking, stop := context.WithCancel(watched)
	doubt := time.AfterFunc(doubtAfter, func() {
		for c.alive(asking) {
			select {
			case <-time.After(doubtAfter):
			case <-asking.Done():
				return
			}
		}
		if asking.Err() == nil {
			cancel(c.silence(nil))
		}
	})
	answered = func() { doubt.Stop(); stop() }
	return watched, answered, func() { answered(); cancel(nil) }
}

// silence is the error of a call to a worker that does not answer at all.
func (c *Client) silence(cause error) error {
	return stacyvm.Wrap(
		stacyvm.CodeUnavailable,
		errors.Join(worker.ErrSilent, cause),
		"worker "+string(c.config.ID)+" does not answer",
	)
}

// alive asks for a sign of life, over the connection that the call uses where there is one.
// Whatever comes is one, a refusal too: who refuses connections has a kernel that lives, and the
// call itself learns what became of it.
func (c *Client) alive(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, aliveWithin)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/health", nil)
	if err != nil {
		return true // NewClient has seen the address
	}
	answer, err := c.control.RoundTrip(request)
	if err == nil {
		_ = answer.Body.Close()
	}
	return ctx.Err() == nil && !unanswered(err)
}

// dial makes a connection.
func (c *Client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.conns.dial(ctx, network, address)
	if unanswered(err) && ctx.Err() == nil {
		err = c.silence(err)
	}
	return conn, err
}

// unanswered reports whether an error says that nothing came back.
func unanswered(err error) bool {
	late, ok := errors.AsType[net.Error](err)
	return ok && late.Timeout() || errors.Is(err, worker.ErrSilent) || errors.Is(err, syscall.EHOSTUNREACH) ||
		errors.Is(err, syscall.ENETUNREACH)
}

// retryOnce makes a call that changes nothing, or the same when it is made again, and makes it
// again when the connection broke under it: the worker may have been started anew since it was
// last used.
func retryOnce[A any](ctx context.Context, c *Client, call func(context.Context) (A, error)) (A, error) {
	ctx, _, end := c.watch(ctx)
	defer end()
	answer, err := call(ctx)
	if broke(ctx, err) {
		answer, err = call(ctx)
	}
	return answer, c.failed(failure(ctx, err))
}

// broke reports whether a call ended without an answer although its caller still waits.
func broke(ctx context.Context, err error) bool {
	_, own := errors.AsType[*stacyvm.Error](err)
	return err != nil && !own && !connect.IsWireError(err) && ctx.Err() == nil
}

const (
	// undoWithin is how long a call whose caller stopped waiting may take to undo what it has
	// begun. After it, the worker's inventory tells what is left.
	undoWithin = 20 * time.Second
	// takeWithin is how long a worker that has not even taken the call is waited for then.
	takeWithin = time.Second
	// endWithin is how long a stream may take to end after its answer.
	endWithin = 100 * time.Millisecond
)

// answering is what a worker sends while it works on a call that changes something.
type answering interface{ GetTaken() bool }

// cancellable makes a call that changes something, again when the connection broke before the
// worker had it.
func cancellable[Q, A any, P interface {
	*A
	answering
}](ctx context.Context, c *Client, open func(context.Context) *connect.BidiStreamForClient[Q, A], question *Q) (*A, error) {
	ctx, answered, end := c.watch(ctx)
	defer end()
	answer, taken, err := cancellableOnce[Q, A, P](ctx, answered, open, question)
	if !taken && broke(ctx, err) {
		answer, _, err = cancellableOnce[Q, A, P](ctx, answered, open, question)
	}
	return answer, c.failed(failure(ctx, err))
}

// cancellableOnce makes a call that is undone when ctx ends: it tells the worker, and waits for
// its answer, as a local call returns when nothing of it goes on. answered is called when the
// worker has it.
func cancellableOnce[Q, A any, P interface {
	*A
	answering
}](ctx context.Context, answered func(), open func(context.Context) *connect.BidiStreamForClient[Q, A], question *Q) (answer *A, taken bool, err error) {
	if ctx.Err() != nil {
		return nil, false, ended(ctx)
	}
	life, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	stream := open(life)
	defer func() {
		defer time.AfterFunc(endWithin, cut).Stop()
		_ = errors.Join(stream.CloseRequest(), stream.CloseResponse()) // cut ends what they do not
	}()
	sending := context.AfterFunc(ctx, cut)
	err = stream.Send(question)
	if !sending() {
		return nil, false, ended(ctx)
	}
	if err != nil && !errors.Is(err, io.EOF) { // at io.EOF the reason is in the answer
		return nil, false, err
	}
	var has atomic.Bool
	tell := context.AfterFunc(ctx, func() {
		_ = stream.CloseRequest() // fails only when the call has ended
		time.AfterFunc(takeWithin, func() {
			if !has.Load() {
				cut()
			}
		})
		time.AfterFunc(undoWithin, cut)
	})
	defer tell()
	answer, err = stream.Receive()
	if err == nil && P(answer).GetTaken() {
		taken = true
		has.Store(true)
		answered()
		answer, err = stream.Receive()
	}
	return answer, taken, interrupted(ctx, err)
}

// interrupted gives the caller's own reason for an end that it asked for.
func interrupted(ctx context.Context, err error) error {
	if err == nil || ctx.Err() == nil {
		return err
	}
	err = failure(ctx, err)
	if code := stacyvm.CodeOf(err); code == stacyvm.CodeUnavailable || code == stacyvm.CodeTimeout {
		return ended(ctx)
	}
	return err
}

// left is how long a context still runs, in microseconds; 0: without a limit.
func left(ctx context.Context) int64 {
	until, limited := ctx.Deadline()
	if !limited {
		return 0
	}
	return max(1, time.Until(until).Microseconds())
}
