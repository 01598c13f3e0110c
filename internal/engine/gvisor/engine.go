// Package gvisor is the embedded gVisor engine. It turns an engine.Spec into an OCI spec and asks
// a launcher, a process of its own that links gVisor, to run it; this package links none of
// gVisor. Sandboxes and the launcher outlive this process. All state is below one directory, which
// nobody else may use.
package gvisor

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/bundle"
	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Name is the provider name.
const Name = "gvisor"

// Config says where the engine lives.
type Config struct {
	// Dir holds all state; made when missing. It must be on a local disk with room for the
	// sandboxes' files.
	Dir string
	// Launcher and Guest are paths of the two programs; empty: those in this build, unpacked below
	// Dir.
	Launcher string
	Guest    string
}

// Engine implements engine.Engine, engine.Remover and engine.Expirer.
type Engine struct {
	config Config

	mu   sync.Mutex
	hold *net.UnixConn // while it is open, the launcher stays although it may have no sandbox
	// greeting is what the launcher said when hold was opened.
	greeting wire.Answer
	tried    bool // a trial sandbox has worked
}

var (
	_ engine.Engine  = (*Engine)(nil)
	_ engine.Remover = (*Engine)(nil)
	_ engine.Expirer = (*Engine)(nil)
)

// Open prepares the directory. The launcher is started by the first call that needs it.
// CodeInvalid: the directory cannot be used; CodeUnsupported: this build lacks the programs.
func Open(config Config) (*Engine, error) {
	dir, err := filepath.Abs(config.Dir)
	if err != nil || config.Dir == "" {
		return nil, stacyvm.Invalid("data_dir", "must be a directory")
	}
	if strings.ContainsAny(dir, ":,") {
		return nil, stacyvm.Invalid("data_dir", "must not contain ':' or ','")
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, "data_dir: cannot be made")
	}
	config.Dir = dir
	if config.Launcher == "" {
		if config.Launcher, err = bundle.Unpack(dir, bundle.Sentry); err != nil {
			return nil, err
		}
	}
	if config.Guest == "" {
		if config.Guest, err = bundle.Unpack(dir, bundle.Guest); err != nil {
			return nil, err
		}
	}
	return &Engine{config: config}, nil
}

// Name implements engine.Engine.
func (e *Engine) Name() string { return Name }

// bootTime is how long a sandbox may take to answer.
const bootTime = 30 * time.Second

// Create implements engine.Engine.
func (e *Engine) Create(ctx context.Context, spec engine.Spec) (engine.Instance, error) {
	if !wire.ValidID(string(spec.ID)) {
		return nil, stacyvm.Invalid("id", "must be 1 to 64 letters, digits, '_', '-' or '.'")
	}
	request, err := e.request(spec)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	_, conn, err := e.call(ctx, wire.Request{Verb: wire.VerbCreate, ID: string(spec.ID), Create: request})
	if err == nil {
		if err = boot(ctx, conn, spec.Boot); err == nil {
			return &instance{engine: e, id: spec.ID, first: conn}, nil
		}
		conn.Close()
	} else if refused(err) {
		return nil, err
	}
	// What became of it is not known, or it does not answer: nothing may be left.
	if left := e.Remove(context.WithoutCancel(ctx), spec.ID); left != nil {
		err = errors.Join(err, left)
	}
	return nil, wrap(err, "the sandbox did not start")
}

// boot hands the boot message to a fresh guest.
func boot(ctx context.Context, conn net.Conn, message guest.Boot) error {
	if conn == nil {
		return errors.New("the launcher passed no guest descriptor")
	}
	deadline, _ := ctx.Deadline()
	if err := conn.SetDeadline(deadline); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err := guest.SendBoot(conn, message)
	if !stop() {
		return errors.Join(ctx.Err(), err)
	}
	return errors.Join(err, conn.SetDeadline(time.Time{}))
}

// Attach implements engine.Engine.
func (e *Engine) Attach(ctx context.Context, id stacyvm.SandboxID, secret guest.Secret) (engine.Instance, error) {
	i := &instance{engine: e, id: id}
	status, err := i.Status(ctx)
	if err != nil {
		return nil, err
	}
	if !status.Running {
		return nil, stacyvm.Wrap(stacyvm.CodeUnavailable, errors.New(status.Detail), "the sandbox does not run")
	}
	conn, err := i.Dial(ctx, engine.Target{})
	if err != nil {
		return nil, wrap(err, "the sandbox does not answer")
	}
	return i, conn.Close()
}

// List implements engine.Engine.
func (e *Engine) List(ctx context.Context) ([]engine.Runtime, error) {
	answer, _, err := e.call(ctx, wire.Request{Verb: wire.VerbList})
	if err != nil {
		return nil, err
	}
	runtimes := make([]engine.Runtime, 0, len(answer.Runtimes))
	for _, r := range answer.Runtimes {
		runtimes = append(runtimes, engine.Runtime{
			ID: stacyvm.SandboxID(r.ID), Labels: r.Labels, Running: r.Running, Detail: r.Detail,
			Cause: causeOf(r), Created: r.Created,
		})
	}
	return runtimes, nil
}

// causeOf is why a sandbox does not run, as its launcher knows it.
func causeOf(r wire.Runtime) stacyvm.Cause {
	if r.End == nil {
		return stacyvm.Cause{}
	}
	return stacyvm.Cause{Reason: stacyvm.Reason(r.End.Cause), Detail: r.End.Detail, Since: r.End.At}
}

// Remove implements engine.Remover.
func (e *Engine) Remove(ctx context.Context, id stacyvm.SandboxID) error {
	if !wire.ValidID(string(id)) {
		return nil // never made
	}
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	_, _, err := e.call(ctx, wire.Request{Verb: wire.VerbDestroy, ID: string(id)})
	return err
}

// Expire implements engine.Expirer.
func (e *Engine) Expire(ctx context.Context, id stacyvm.SandboxID, at time.Time) error {
	if !wire.ValidID(string(id)) {
		return stacyvm.Errorf(stacyvm.CodeNotFound, "no such sandbox")
	}
	_, _, err := e.call(ctx, wire.Request{Verb: wire.VerbExpire, ID: string(id), Expires: at.Unix()})
	if l, ok := errors.AsType[*launcherError](err); ok && l.failure == wire.FailureInvalid {
		return stacyvm.Wrap(stacyvm.CodeUnsupported, err, "the gVisor launcher is of an earlier release")
	}
	return err
}

// wrap gives err a code, if it has none, that lets the caller try again.
func wrap(err error, message string) error {
	var coded *stacyvm.Error
	if err == nil || errors.As(err, &coded) {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return stacyvm.Wrap(stacyvm.CodeTimeout, err, message)
	}
	return stacyvm.Wrap(stacyvm.CodeUnavailable, err, message)
}
