package control_test

import (
	"context"
	"errors"
	"testing"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// errSilent is a call to a worker that gives no sign of life, after all the time that this takes
// to find out.
var errSilent = stacyvm.Wrap(stacyvm.CodeUnavailable, worker.ErrSilent, "worker here does not answer")

// mute is a worker that does not answer when somebody asks for a guest.
type mute struct {
	*controltest.Worker
	asked int
}

func (m *mute) Guest(context.Context, stacyvm.Ref, guest.Scope) (guest.Conn, error) {
	m.asked++
	return guest.Conn{}, errSilent
}

// TestASilentWorkerIsAskedOnce: each try takes seconds, so that what has not begun is refused
// after the first.
func TestASilentWorkerIsAskedOnce(t *testing.T) {
	w := &mute{Worker: controltest.NewWorker()}
	r := &rig{controltest.NewRig(t, func(c *control.Config) { c.Workers = func(stacyvm.WorkerID) (worker.Worker, error) { return w, nil } })}
	r.Machine = w.Worker
	id := r.MustCreate(t).ID
	for what, call := range map[string]func() error{
		"exec": func() error {
			_, err := r.Exec(r.Ctx, id, control.ExecRequest{Command: "true"})
			return err
		},
		"run": func() error {
			_, err := r.Run(r.Ctx, id, control.ExecRequest{Command: "true"})
			return err
		},
		"start": func() error {
			_, err := r.Start(r.Ctx, id, control.ExecRequest{Command: "true"})
			return err
		},
		"attach": func() error {
			_, err := r.Attach(r.Ctx, id, "process", control.AttachRequest{})
			return err
		},
		"read":  func() error { _, err := r.ReadFile(r.Ctx, id, "/etc/hosts"); return err },
		"mkdir": func() error { return r.MakeDir(r.Ctx, id, "/workspace/x", 0) },
		"logs":  func() error { _, err := r.Logs(r.Ctx, id, 10); return err },
	} {
		w.asked = 0
		err := call()
		wantCode(t, err, stacyvm.CodeUnavailable)
		if w.asked != 1 || !errors.Is(err, worker.ErrSilent) {
			t.Errorf("%s: asked %d times, %v", what, w.asked, err)
		}
	}
}

// TestCreateOnASilentWorker leaves the removal of what may have arrived to reconciliation: another
// call would only take longer.
func TestCreateOnASilentWorker(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	var id stacyvm.SandboxID
	r.Machine.BeforeCreate = func(_ context.Context, ref stacyvm.Ref) error { id = ref.ID; return errSilent }
	r.Machine.BeforeDestroy = func(context.Context, stacyvm.Ref) error { t.Error("it was asked again"); return nil }
	_, _, err := r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{})
	wantCode(t, err, stacyvm.CodeUnavailable)
	row := controltest.Row(t, r.Store, id)
	if row.State != stacyvm.StateError || row.Reason != "create_failed" || row.Desired != stacyvm.DesiredDestroyed {
		t.Errorf("the row is %+v", row)
	}
}
