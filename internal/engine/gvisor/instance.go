package gvisor

import (
	"context"
	"errors"
	"net"
	"sync"

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
}

// Dial implements engine.Instance. The first connection to the guest program is the descriptor
// that it was started with; later ones go through gVisor to the port that it listens on.
func (i *instance) Dial(ctx context.Context, target engine.Target) (net.Conn, error) {
	if target.Port == 0 {
		if conn := i.takeFirst(); conn != nil {
			return conn, nil
		}
		target.Port = guest.Port
	}
	_, conn, err := i.engine.call(ctx, wire.Request{Verb: wire.VerbDial, ID: string(i.id), Port: target.Port})
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

func (i *instance) takeFirst() net.Conn {
	i.mu.Lock()
	defer i.mu.Unlock()
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
	return engine.Status{Running: r.Running, Detail: r.Detail, Cause: causeOf(r), Unenforced: r.Unenforced}, nil
}

// Destroy implements engine.Instance.
func (i *instance) Destroy(ctx context.Context) error {
	if conn := i.takeFirst(); conn != nil {
		conn.Close()
	}
	return i.engine.Remove(ctx, i.id)
}
