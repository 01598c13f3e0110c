package placement_test

import (
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

func newFleetRig(t *testing.T) *rig { return &rig{controltest.NewFleetRig(t)} }

func TestAdmissionExplainsPlacement(t *testing.T) {
	zoned := control.CreateRequest{Selector: map[string]string{"zone": "a"}}
	tests := map[string]struct {
		workers map[stacyvm.WorkerID]func(*stacyvm.Worker)
		request control.CreateRequest
		reason  stacyvm.AdmissionReason
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
				r.Register(t, id, change)
			}
			a, err := r.Admit(r.Ctx, tt.request)
			if err != nil || a.Reason != tt.reason || a.SelectedWorker != tt.worker || a.Queueable || (a.WorkerReason == "") != (tt.worker != "") {
				t.Errorf("%+v, %v; want %q, worker %q", a, err, tt.reason, tt.worker)
			}
			sandbox, _, err := r.Create(r.Ctx, tt.request, control.Idempotency{})
			if tt.worker == "" {
				wantCode(t, err, stacyvm.CodeLimit)
			} else if err != nil || sandbox.WorkerID != tt.worker {
				t.Errorf("%q, %v", sandbox.WorkerID, err)
			}
		})
	}
}

// TestPlacesAreLookedAtAnew changes workers behind the back of what is known of them: each create
// finds out by itself.
func TestPlacesAreLookedAtAnew(t *testing.T) {
	r := newFleetRig(t)
	one := func(w *stacyvm.Worker) { w.Capacity.MaxSandboxes = 1 }
	r.Register(t, "w1", one)
	first := r.MustCreate(t)
	_, _, err := r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{})
	wantCode(t, err, stacyvm.CodeLimit)
	wantCode(t, r.Destroy(r.Ctx, first.ID), "")
	second := r.MustCreate(t) // at once: what ended is seen
	r.Register(t, "w2", one)
	r.Register(t, "w3", one)
	if third := r.MustCreate(t); third.WorkerID == "w1" {
		t.Errorf("placed on %s, which is full", third.WorkerID)
	}
	r.Register(t, "w2", func(w *stacyvm.Worker) { w.Status = "draining" })
	r.Register(t, "w3", func(w *stacyvm.Worker) { w.Status = "draining" })
	wantCode(t, r.Destroy(r.Ctx, second.ID), "")
	if fourth := r.MustCreate(t); fourth.WorkerID != "w1" {
		t.Errorf("placed on %s, which is draining", fourth.WorkerID)
	}
	r.Register(t, "w4", nil)
	if fifth := r.MustCreate(t); fifth.WorkerID != "w4" {
		t.Errorf("placed on %s", fifth.WorkerID)
	}
	controltest.Update(t, r.Store, func(tx store.Tx) error { return tx.Workers().Delete(t.Context(), "w4") })
	_, _, err = r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{})
	wantCode(t, err, stacyvm.CodeLimit)
}

// TestPlacesThatFilledMeanwhileAreLeft has another control plane give sandboxes to two of eight
// workers after they were counted: creates find out, and go to those that have fewer.
func TestPlacesThatFilledMeanwhileAreLeft(t *testing.T) {
	r := newFleetRig(t)
	for _, id := range "abcdefgh" {
		r.Register(t, stacyvm.WorkerID(id), func(w *stacyvm.Worker) { w.Capacity.MaxSandboxes = 100 })
	}
	r.MustCreate(t) // counts
	controltest.Update(t, r.Store, func(tx store.Tx) error {
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
		if s := r.MustCreate(t); s.WorkerID == "a" || s.WorkerID == "b" {
			t.Errorf("placed on %s, which has five more than the others", s.WorkerID)
		}
	}
}

// TestPlacesGoRoundWithoutLimits spreads over workers that have no limit and are not added up.
func TestPlacesGoRoundWithoutLimits(t *testing.T) {
	r := newFleetRig(t)
	for _, id := range []stacyvm.WorkerID{"w1", "w2", "w3", "w4"} {
		r.Register(t, id, nil)
	}
	on := map[stacyvm.WorkerID]int{}
	for range 12 {
		on[r.MustCreate(t).WorkerID]++
	}
	for id, n := range on {
		if n != 3 || len(on) != 4 {
			t.Errorf("%s has %d of %v", id, n, on)
		}
	}
}

func TestCreateRefusesWrongSelectors(t *testing.T) {
	r := newFleetRig(t)
	r.Register(t, "w1", nil)
	many := map[string]string{}
	for i := range 17 {
		many[string(rune('a'+i))] = "x"
	}
	for name, selector := range map[string]map[string]string{"no name": {"": "x"}, "white space": {"a": "b c"}, "many": many} {
		_, _, err := r.Create(r.Ctx, control.CreateRequest{Selector: selector}, control.Idempotency{})
		if stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
