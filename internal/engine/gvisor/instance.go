package gvisor

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// instance is one sandbox.
type instance struct {
	engine *Engine
	id     stacyvm.SandboxID

	mu    sync.Mutex
	first net.Conn // the descriptor that the guest was born with, until somebody takes it

	portOnly atomic.Bool // the guest program takes connections on its port alone
}

// Dial implements engine.Instance. The first connection to the guest program is the descriptor
// that it was started with; later ones are handed to it. One of an earlier release, or whose
// launcher was killed, is reached through gVisor, at the port that it listens on.
func (i *instance) Dial(ctx context.Context, target engine.Target) (net.Conn, error) {
	if target.Port != 0 {
		return i.dial(ctx, wire.Request{Verb: wire.VerbDial, ID: string(i.id), Port: target.Port})
	}
	if conn := i.takeFirst(target); conn != nil {
		return conn, nil
	}
	if !i.portOnly.Load() {
		conn, err := i.dial(ctx, wire.Request{Verb: wire.VerbConnect, ID: string(i.id)})
		if !unsupported(err) {
			return conn, err
		}
		i.portOnly.Store(true)
	}
	if target.HTTP1 {
		return nil, stacyvm.Errorf(stacyvm.CodeUnsupported, "the sandbox's guest program is of an earlier release")
	}
	return i.dial(ctx, wire.Request{Verb: wire.VerbDial, ID: string(i.id), Port: guest.Port})
}

// unsupported reports whether the launcher cannot pass connections to this guest program. One of
// an earlier release does not know the request.
func unsupported(err error) bool {
	l, ok := errors.AsType[*launcherError](err)
	return ok && (l.failure == wire.FailureUnsupported || l.failure == wire.FailureInvalid)
}

// dial asks the launcher for a connection.
func (i *instance) dial(ctx context.Context, request wire.Request) (net.Conn, error) {
	_, conn, err := i.engine.call(ctx, request)
	if err != nil {
		return nil, err
	}
	if conn == nil {
		return nil, stacyvm.Wrap(
			stacyvm.CodeInternal,
			errors.New("the launcher passed no descriptor"),
			"cannot reach the sandbox",
		)
	}
	return conn, nil
}

// takeFirst gives the first connection, unless it is not what is asked for: it is read by a server
// of HTTP/2.
func (i *instance) takeFirst(target engine.Target) net.Conn {
	i.mu.Lock()
	defer i.mu.Unlock()
	if target.HTTP1 {
		return nil
	}
	conn := i.first
	i.first = nil
	return conn
}

// Status implements engine.Instance.
func (i *instance) Status(ctx context.Context) (engine.Status, error) {
	answer, _, err := i.engine.call(ctx, wire.Request{Verb: wire.VerbStatus, ID: string(i.id)})
	if err != nil {
		return engine.Status{}, err
	}
	if len(answer.Runtimes) != 1 {
		return engine.Status{}, stacyvm.Wrap(
			stacyvm.CodeInternal,
			errors.New("the launcher gave no status"),
			"cannot examine the sandbox",
		)
	}
	r := answer.Runtimes[0]
	return engine.Status{
		Running:    r.Running,
		Detail:     r.Detail,
		Cause:      causeOf(r),
		Unenforced: stacyvm.Retype[stacyvm.Limit](r.Unenforced),
	}, nil
}

// Destroy implements engine.Instance.
func (i *instance) Destroy(ctx context.Context) error {
	if conn := i.takeFirst(engine.Target{}); conn != nil {
		conn.Close()
	}
	return i.engine.Remove(ctx, i.id)
}
