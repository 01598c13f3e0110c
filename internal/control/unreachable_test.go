package control_test

import (
	"context"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// faulty is a worker whose way to guests has a fault.
type faulty struct {
	*controltest.Worker
	guest   func(context.Context) (guest.Conn, error)
	destroy error
	expire  func(context.Context) error
}

func (f *faulty) Expire(ctx context.Context, ref stacyvm.Ref, at time.Time) error {
	if f.expire != nil {
		return f.expire(ctx)
	}
	return f.Worker.Expire(ctx, ref, at)
}

func (f *faulty) Guest(ctx context.Context, _ stacyvm.Ref, _ guest.Scope) (guest.Conn, error) {
	return f.guest(ctx)
}

func (f *faulty) Destroy(ctx context.Context, ref stacyvm.Ref) error {
	if f.destroy != nil {
		return f.destroy
	}
	return f.Worker.Destroy(ctx, ref)
}

// doer is a connection to a guest.
type doer func(*http.Request) (*http.Response, error)

func (d doer) Do(r *http.Request) (*http.Response, error) { return d(r) }

func connected(d doer) func(context.Context) (guest.Conn, error) {
	return func(context.Context) (guest.Conn, error) { return guest.Conn{HTTP: d, URL: "http://guest"}, nil }
}

// calls are those that need a sandbox's guest.
func (r *rig) calls(id stacyvm.SandboxID) map[string]func() error {
	const process = "p-1"
	return map[string]func() error{
		"exec": func() error { _, err := r.Exec(r.Ctx, id, control.ExecRequest{Command: "true"}); return err },
		"exec stream": func() error {
			output, err := r.Run(r.Ctx, id, control.ExecRequest{Command: "true"})
			if err == nil {
				defer output.Close()
				_, err = output.Next(r.Ctx)
			}
			return err
		},
		"start":  func() error { _, err := r.Start(r.Ctx, id, control.ExecRequest{Command: "true"}); return err },
		"attach": func() error { _, err := r.Attach(r.Ctx, id, process, control.AttachRequest{}); return err },
		"input": func() error {
			_, err := r.Input(r.Ctx, id, process, control.InputRequest{Data: []byte("x")})
			return err
		},
		"signal":    func() error { return r.Signal(r.Ctx, id, process, 15) },
		"resize":    func() error { return r.Resize(r.Ctx, id, process, stacyvm.Terminal{Rows: 1, Cols: 1}) },
		"processes": func() error { _, err := r.Processes(r.Ctx, id); return err },
		"process":   func() error { _, err := r.Process(r.Ctx, id, process); return err },
		"wait":      func() error { _, err := r.Wait(r.Ctx, id, process); return err },
		"read":      func() error { _, err := r.ReadFile(r.Ctx, id, "/x"); return err },
		"list":      func() error { _, err := r.ListFiles(r.Ctx, id, "/x"); return err },
		"mkdir":     func() error { return r.MakeDir(r.Ctx, id, "/x", 0) },
		"remove":    func() error { return r.RemoveFile(r.Ctx, id, "/x", false) },
		"logs":      func() error { _, err := r.Logs(r.Ctx, id, 10); return err },
		"stats":     func() error { _, err := r.Stats(r.Ctx, id); return err },
	}
}

// TestUnreachableIsRefusedAtOnce: each call for a sandbox that cannot be reached is refused within
// 5 s, and without any wait where that is known at once. What needs the records alone goes on.
func TestUnreachableIsRefusedAtOnce(t *testing.T) {
	const soon = 5 * time.Second
	broken := stacyvm.Errorf(stacyvm.CodeUnavailable, "the connection to the sandbox broke")
	hangs := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, kind := range map[string]struct {
		found   error // no worker is found
		guest   func(context.Context) (guest.Conn, error)
		state   stacyvm.State
		destroy error
		expire  func(context.Context) error
		within  time.Duration
	}{
		"no address": {found: stacyvm.Errorf(stacyvm.CodeUnavailable, "worker here has no RPC address")},
		"worker dead": {
			guest: func(context.Context) (guest.Conn, error) {
				return guest.Conn{}, stacyvm.Errorf(stacyvm.CodeUnavailable, "connection refused")
			},
			destroy: stacyvm.Errorf(stacyvm.CodeUnavailable, "connection refused"),
		},
		"worker cut off": {
			guest:   func(context.Context) (guest.Conn, error) { time.Sleep(4 * time.Second); return guest.Conn{}, errSilent },
			destroy: errSilent, within: soon,
			expire: func(context.Context) error { time.Sleep(4 * time.Second); return errSilent },
		},
		"worker hangs": {
			guest:  func(ctx context.Context) (guest.Conn, error) { <-ctx.Done(); return guest.Conn{}, ctx.Err() },
			expire: hangs, within: soon,
		},
		"runtime gone": {guest: func(context.Context) (guest.Conn, error) {
			return guest.Conn{}, stacyvm.Errorf(stacyvm.CodeNotFound, "gone")
		}},
		"guest mute": {guest: connected(func(r *http.Request) (*http.Response, error) { <-r.Context().Done(); return nil, r.Context().Err() }), within: soon},
		"guest gone": {guest: connected(func(*http.Request) (*http.Response, error) { return nil, broken }), within: soon},
		"unhealthy":  {state: stacyvm.StateUnhealthy, expire: hangs},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &faulty{controltest.NewWorker(), kind.guest, kind.destroy, kind.expire}
				var found error
				r := &rig{controltest.NewRig(t, func(c *control.Config) { c.Workers = func(stacyvm.WorkerID) (worker.Worker, error) { return w, found } })}
				sandbox := r.MustCreate(t)
				if kind.state != "" {
					controltest.Update(t, r.Store, func(tx store.Tx) error {
						reason := stacyvm.ReasonWorkerUnreachable
						_, err := tx.Sandboxes().Apply(t.Context(), sandbox.ID, sandbox.Fence, store.Change{State: kind.state, Cause: &stacyvm.Cause{Reason: reason}})
						return err
					})
				}
				found = kind.found
				for what, call := range r.calls(sandbox.ID) {
					began := time.Now()
					err := call()
					if took := time.Since(began); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable || took > kind.within {
						t.Errorf("%s: after %s %v", what, took, err)
					}
				}
				began := time.Now()
				if _, err := r.Extend(r.Ctx, sandbox.ID, time.Hour); err != nil || time.Since(began) > kind.within {
					t.Errorf("extend: after %s %v", time.Since(began), err)
				}
				began = time.Now()
				want := stacyvm.Code("")
				if kind.found != nil || kind.destroy != nil {
					want = stacyvm.CodeUnavailable
				}
				if err := r.Destroy(r.Ctx, sandbox.ID); stacyvm.CodeOf(err) != want || time.Since(began) > kind.within {
					t.Errorf("kill: after %s %v", time.Since(began), err)
				}
			})
		})
	}
}
