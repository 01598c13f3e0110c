package local

import (
	"context"
	"net"
	"time"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// attachWithin bounds finding a runtime and its guest's first answer.
const attachWithin = 10 * time.Second

// Guest implements worker.Worker. One connection per sandbox serves all callers. CodeNotFound:
// there is no runtime, or it is being destroyed; CodeUnavailable: it is still being created, or
// its guest does not answer.
func (w *Worker) Guest(ctx context.Context, ref stacyvm.Ref, scope guest.Scope) (guest.Conn, error) {
	l, err := w.reach(ctx, ref)
	if err != nil {
		return guest.Conn{}, err
	}
	return l.transport.Conn(scope), nil
}

// DialPort implements worker.Worker. CodeUnavailable: nothing listens there; otherwise as for
// Guest.
func (w *Worker) DialPort(ctx context.Context, ref stacyvm.Ref, port uint16) (net.Conn, error) {
	if port == 0 {
		return nil, stacyvm.Invalid("port", "must be between 1 and 65535")
	}
	l, err := w.reach(ctx, ref)
	if err != nil {
		return nil, err
	}
	conn, err := l.instance.Dial(ctx, engine.Target{Port: port})
	return conn, failure(err, "the port cannot be reached")
}

// reach checks the fence and gives the connection. It runs for every command: no disk, no engine,
// and no lock that is held for longer than a look, unless the fence is new or the sandbox is not
// attached.
func (w *Worker) reach(ctx context.Context, ref stacyvm.Ref) (*connection, error) {
	b := w.lookup(ref.ID)
	if b == nil {
		return nil, errNotHere
	}
	b.mu.Lock()
	if b.record == nil && b.damaged == nil {
		b.mu.Unlock()
		return nil, errNotHere
	}
	err := w.admit(b, ref.Fence)
	b.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return w.connected(ctx, b)
}

var errNotHere = stacyvm.Errorf(stacyvm.CodeNotFound, "the sandbox has no runtime here")

// connected gives the connection to a sandbox's guest, made when there is none.
func (w *Worker) connected(ctx context.Context, b *entry) (*connection, error) {
	for {
		l, mine, others, err := w.admitAttach(ctx, b)
		switch {
		case l != nil || err != nil:
			return l, err
		case mine != nil:
			return w.attachJob(b, mine)
		}
		if err := others.wait(ctx); err != nil {
			return nil, err
		}
	}
}

func (w *Worker) admitAttach(ctx context.Context, b *entry) (l *connection, mine, others *job, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.damaged != nil:
		return nil, nil, nil, stacyvm.Wrap(
			stacyvm.CodeUnavailable,
			b.damaged,
			"the worker's record of the sandbox is damaged",
		)
	case b.record == nil:
		return nil, nil, nil, errNotHere
	case b.job != nil && b.job.kind == kindCreate:
		return nil, nil, nil, stacyvm.Errorf(stacyvm.CodeUnavailable, "the sandbox is being created")
	case b.job != nil && b.job.kind == kindDestroy:
		return nil, nil, nil, errNotHere
	case b.job != nil:
		return nil, nil, b.job, nil
	case b.connection != nil:
		return b.connection, nil, nil, nil
	}
	mine, err = w.begin(ctx, b, kindAttach)
	return nil, mine, nil, err
}

func (w *Worker) attachJob(b *entry, j *job) (found *connection, err error) {
	defer func() {
		w.finish(b, j, func() {
			if err == nil {
				b.connection, b.health = found, w.keepAsking(b, w.answered(b.id))
			}
		})
	}()
	return w.attachWhole(j.ctx, b)
}

// attachWhole attaches to a runtime whose create an earlier process may not have finished: one
// that answers is whole.
func (w *Worker) attachWhole(ctx context.Context, b *entry) (*connection, error) {
	l, err := w.attach(ctx, b.id, b.current())
	if err != nil {
		return nil, err
	}
	if _, err := w.complete(ctx, b, l.instance, w.journal.keep); err != nil {
		l.transport.Close()
		return nil, err
	}
	return l, nil
}

// attach finds a runtime that was made earlier and waits for its guest's answer.
func (w *Worker) attach(ctx context.Context, id stacyvm.SandboxID, r *record) (*connection, error) {
	e := w.engine(r.Engine)
	if e == nil {
		return nil, stacyvm.Errorf(stacyvm.CodeUnavailable, "provider %s is not enabled on this machine", r.Engine)
	}
	ctx, cancel := context.WithTimeout(ctx, attachWithin)
	defer cancel()
	instance, err := e.Attach(ctx, id, guest.Secret(r.Secret))
	if err != nil {
		return nil, failure(err, "the sandbox cannot be reached")
	}
	l := connect(instance, r.Secret)
	if err := l.ping(ctx); err != nil {
		l.transport.Close()
		return nil, stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the sandbox's guest does not answer")
	}
	return l, nil
}

// connect makes the connection that all callers share. It dials when it is first used, and again
// when it broke.
func connect(instance engine.Instance, secret string) *connection {
	dial := func(ctx context.Context) (net.Conn, error) { return instance.Dial(ctx, engine.Target{}) }
	transport := guest.NewTransport(dial, guest.Secret(secret))
	transport.DialDirect = func(ctx context.Context) (net.Conn, error) {
		return instance.Dial(ctx, engine.Target{HTTP1: true})
	}
	return &connection{instance: instance, transport: transport}
}

// ping asks the guest whether it is there.
func (l *connection) ping(ctx context.Context) error {
	_, err := guest.NewClient(l.transport.Conn(guest.ScopeExec)).Ping(ctx)
	return err
}
