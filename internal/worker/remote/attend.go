package remote

import (
	"context"
	"errors"
	"io"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// undoWithin is how long a call whose caller stopped waiting may take to undo what it has begun. After it, the worker's
	// inventory tells what is left.
	undoWithin = 20 * time.Second
	// takeWithin is how long a worker that has not even taken the call is waited for then.
	takeWithin = time.Second
	// endWithin is how long a stream may take to end after its answer.
	endWithin = 100 * time.Millisecond
)

// answering is what a worker sends while it works on a call that changes something.
type answering interface{ GetTaken() bool }

// attend makes a call that changes something, again when the connection broke before the worker had it.
func attend[Q, A any, P interface {
	*A
	answering
}](ctx context.Context, c *Client, open func(context.Context) *connect.BidiStreamForClient[Q, A], question *Q) (*A, error) {
	ctx, heard, end := c.heed(ctx)
	defer end()
	answer, taken, err := attendOnce[Q, A, P](ctx, heard, open, question)
	if !taken && broke(ctx, err) {
		answer, _, err = attendOnce[Q, A, P](ctx, heard, open, question)
	}
	return answer, c.failed(failure(ctx, err))
}

// attendOnce makes a call that is undone when ctx ends: it tells the worker, and waits for its answer, as a local call returns
// when nothing of it goes on. heard is called when the worker has it.
func attendOnce[Q, A any, P interface {
	*A
	answering
}](ctx context.Context, heard func(), open func(context.Context) *connect.BidiStreamForClient[Q, A], question *Q) (answer *A, taken bool, err error) {
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
		heard()
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
