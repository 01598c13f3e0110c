package remote

import (
	"context"
	"errors"
	"net"
	"net/http"
	"syscall"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

const (
	// doubtAfter is how long a call waits for its worker before it asks for a sign of life, and the pause before it asks again.
	doubtAfter = 2 * time.Second
	// aliveWithin is how long a worker may take for the sign. One that gives none is waited for no longer: a control plane waits 4.5 s
	// for a sandbox, and is to hear that the worker is silent.
	aliveWithin = 2 * time.Second
)

// heed gives the context of a call, which ends when the worker gives no sign of life before heard is called. A worker that is slow is
// waited for. end follows the call.
func (c *Client) heed(ctx context.Context) (heeded context.Context, heard, end func()) {
	heeded, cancel := context.WithCancelCause(ctx)
	asking, stop := context.WithCancel(heeded)
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
	heard = func() { doubt.Stop(); stop() }
	return heeded, heard, func() { heard(); cancel(nil) }
}

// silence is the error of a call to a worker that does not answer at all.
func (c *Client) silence(cause error) error {
	return stacyvm.Wrap(stacyvm.CodeUnavailable, errors.Join(worker.ErrSilent, cause), "worker "+string(c.config.ID)+" does not answer")
}

// alive asks for a sign of life, over the connection that the call uses where there is one. Whatever comes is one, a refusal too: who
// refuses connections has a kernel that lives, and the call itself learns what became of it.
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
	return ctx.Err() == nil && !nobody(err)
}

// dial makes a connection.
func (c *Client) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.conns.dial(ctx, network, address)
	if nobody(err) && ctx.Err() == nil {
		err = c.silence(err)
	}
	return conn, err
}

// nobody reports whether an error says that nothing came back.
func nobody(err error) bool {
	late, ok := errors.AsType[net.Error](err)
	return ok && late.Timeout() || errors.Is(err, worker.ErrSilent) || errors.Is(err, syscall.EHOSTUNREACH) || errors.Is(err, syscall.ENETUNREACH)
}
