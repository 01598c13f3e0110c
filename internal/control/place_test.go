package control_test

import (
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// newFleetRig is a control plane without a worker of its own. All workers are one machine.
func newFleetRig(t *testing.T) *rig {
	t.Helper()
	s, w := controltest.OpenStore(t), controltest.NewWorker()
	service := controltest.NewService(t, s, w, func(c *control.Config) {
		c.Self = ""
		c.Workers = func(stacyvm.WorkerID) (worker.Worker, error) { return w, nil }
	})
	return &rig{service, s, w, controltest.As(t.Context(), "ann", "")}
}

// register writes an online worker with an address; change alters it first.
func (r *rig) register(t *testing.T, id stacyvm.WorkerID, change func(*stacyvm.Worker)) {
	t.Helper()
	w := stacyvm.Worker{
		ID: id, Status: "online", Session: "session-" + string(id), Providers: []string{"mock"},
		Capacity: stacyvm.Capacity{RPCURL: "https://" + string(id) + ":7424"},
	}
	if change != nil {
		change(&w)
	}
	controltest.Update(t, r.store, func(tx store.Tx) error {
		_, err := tx.Workers().Save(t.Context(), w)
		return err
	})
}

func TestAdmissionExplainsPlacement(t *testing.T) {
	zoned := control.CreateRequest{Selector: map[string]string{"zone": "a"}}
	tests := map[string]struct {
		workers map[stacyvm.WorkerID]func(*stacyvm.Worker)
		request control.CreateRequest
		reason  string
		worker  stacyvm.WorkerID
	}{
		"nobody":     {nil, control.CreateRequest{}, "worker_unavailable", ""},
		"one":        {map[stacyvm.WorkerID]func(*stacyvm.Worker){"w1": nil}, control.CreateRequest{}, "", "w1"},
		"no address": {map[stacyvm.WorkerID]func(*stacyvm.Worker){"w1": func(w *stacyvm.Worker) { w.Capacity.RPCURL = "" }}, control.CreateRequest{}, "remote_worker_rpc_unavailable", ""},
		"no usable address": {map[stacyvm.WorkerID]func(*stacyvm.Worker){
			"w1": func(w *stacyvm.Worker) { w.Capacity.RPCURL = "w1:7424" }, "w2": func(w *stacyvm.Worker) { w.Status = "draining" },
		}, control.CreateRequest{}, "remote_worker_rpc_unavailable", ""},
		"label":    {map[stacyvm.WorkerID]func(*stacyvm.Worker){"w1": nil, "w2": func(w *stacyvm.Worker) { w.Capacity.Labels = zoned.Selector }}, zoned, "", "w2"},
		"no label": {map[stacyvm.WorkerID]func(*stacyvm.Worker){"w1": nil}, zoned, "worker_unavailable", ""},
		"too small": {map[stacyvm.WorkerID]func(*stacyvm.Worker){"w1": func(w *stacyvm.Worker) { w.Capacity.MemoryMB = 512 }, "w2": func(w *stacyvm.Worker) { w.Capacity.VCPUs = 1 }},
			control.CreateRequest{VCPUs: 2}, "worker_unavailable", ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newFleetRig(t)
			for id, change := range tt.workers {
				r.register(t, id, change)
			}
			a, err := r.Admit(r.ctx, tt.request)
			if err != nil || a.Reason != tt.reason || a.SelectedWorker != tt.worker || a.Queueable || (a.WorkerReason == "") != (tt.worker != "") {
				t.Errorf("%+v, %v; want %q, worker %q", a, err, tt.reason, tt.worker)
			}
			sandbox, _, err := r.Create(r.ctx, tt.request, control.Idempotency{})
			if tt.worker == "" {
				wantCode(t, err, stacyvm.CodeLimit)
			} else if err != nil || sandbox.WorkerID != tt.worker {
				t.Errorf("%q, %v", sandbox.WorkerID, err)
			}
		})
	}
}

// TestPlacesAreLookedAtAnew changes workers behind the back of what is known of them: each create finds out by itself.
func TestPlacesAreLookedAtAnew(t *testing.T) {
	r := newFleetRig(t)
	one := func(w *stacyvm.Worker) { w.Capacity.MaxSandboxes = 1 }
	r.register(t, "w1", one)
	first := r.create(t)
	_, _, err := r.Create(r.ctx, control.CreateRequest{}, control.Idempotency{})
	wantCode(t, err, stacyvm.CodeLimit)
	wantCode(t, r.Destroy(r.ctx, first.ID), "")
	second := r.create(t) // at once: what ended is seen
	r.register(t, "w2", one)
	r.register(t, "w3", one)
	if third := r.create(t); third.WorkerID == "w1" {
		t.Errorf("placed on %s, which is full", third.WorkerID)
	}
	r.register(t, "w2", func(w *stacyvm.Worker) { w.Status = "draining" })
	r.register(t, "w3", func(w *stacyvm.Worker) { w.Status = "draining" })
	wantCode(t, r.Destroy(r.ctx, second.ID), "")
	if fourth := r.create(t); fourth.WorkerID != "w1" {
		t.Errorf("placed on %s, which is draining", fourth.WorkerID)
	}
	r.register(t, "w4", nil)
	if fifth := r.create(t); fifth.WorkerID != "w4" {
		t.Errorf("placed on %s", fifth.WorkerID)
	}
	controltest.Update(t, r.store, func(tx store.Tx) error { return tx.Workers().Delete(t.Context(), "w4") })
	_, _, err = r.Create(r.ctx, control.CreateRequest{}, control.Idempotency{})
	wantCode(t, err, stacyvm.CodeLimit)
}

// TestPlacesThatFilledMeanwhileAreLeft has another control plane give sandboxes to two of eight workers after they were counted:
// creates find out, and go to those that have fewer.
func TestPlacesThatFilledMeanwhileAreLeft(t *testing.T) {
	r := newFleetRig(t)
	for _, id := range "abcdefgh" {
		r.register(t, stacyvm.WorkerID(id), func(w *stacyvm.Worker) { w.Capacity.MaxSandboxes = 100 })
	}
	r.create(t) // counts
	controltest.Update(t, r.store, func(tx store.Tx) error {
		for i := range 10 {
			_, err := tx.Sandboxes().Insert(t.Context(), stacyvm.Sandbox{
				ID: stacyvm.NewSandboxID(), State: stacyvm.StateRunning, WorkerID: stacyvm.WorkerID("ab"[i%2]), Spec: stacyvm.Spec{TTL: time.Hour},
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	for range 12 {
		if s := r.create(t); s.WorkerID == "a" || s.WorkerID == "b" {
			t.Errorf("placed on %s, which has five more than the others", s.WorkerID)
		}
	}
}

// TestPlacesGoRoundWithoutLimits spreads over workers that have no limit and are not added up.
func TestPlacesGoRoundWithoutLimits(t *testing.T) {
	r := newFleetRig(t)
	for _, id := range []stacyvm.WorkerID{"w1", "w2", "w3", "w4"} {
		r.register(t, id, nil)
	}
	on := map[stacyvm.WorkerID]int{}
	for range 12 {
		on[r.create(t).WorkerID]++
	}
	for id, n := range on {
		if n != 3 || len(on) != 4 {
			t.Errorf("%s has %d of %v", id, n, on)
		}
	}
}

func TestCreateRefusesWrongSelectors(t *testing.T) {
	r := newFleetRig(t)
	r.register(t, "w1", nil)
	many := map[string]string{}
	for i := range 17 {
		many[string(rune('a'+i))] = "x"
	}
	for name, selector := range map[string]map[string]string{"no name": {"": "x"}, "white space": {"a": "b c"}, "many": many} {
		_, _, err := r.Create(r.ctx, control.CreateRequest{Selector: selector}, control.Idempotency{})
		if stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
