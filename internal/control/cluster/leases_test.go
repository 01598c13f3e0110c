package cluster_test

import (
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/cluster"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// TestRegistrationTakesOver: with the answer to its registration a process has every sandbox of
// its worker, with new epochs, and the process before it has nothing any more.
func TestRegistrationTakesOver(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	made := map[string]stacyvm.Sandbox{}
	for range 3 {
		sandbox := r.MustCreate(t)
		made[string(sandbox.ID)] = sandbox
	}
	ctx := controltest.AsWorker(t.Context(), self, auth.ScopeHeartbeat, auth.ScopeLease)
	before, err := r.RenewLeases(ctx, self, "session-1", false)
	if err != nil || len(before.Leases) != 3 || before.Cluster.ID == "" {
		t.Fatalf("%+v, %v", before, err)
	}
	w, err := r.Heartbeat(ctx, controltest.Beat("session-2", true))
	if err != nil || w.Session != "session-2" || w.Status != "online" || w.Stale {
		t.Fatalf("%+v, %v", w, err)
	}
	for name, do := range map[string]func() error{
		"heartbeat": func() error { _, err := r.Heartbeat(ctx, controltest.Beat("session-1", false)); return err },
		"renewal":   func() error { _, err := r.RenewLeases(ctx, self, "session-1", false); return err },
	} {
		wantCode(t, do(), stacyvm.CodeConflict)
		if t.Failed() {
			t.Fatal(name)
		}
	}
	after, err := r.RenewLeases(ctx, self, "session-2", true)
	if err != nil || len(after.Leases) != 3 {
		t.Fatalf("%+v, %v", after, err)
	}
	for _, l := range after.Leases {
		old := made[l.Resource]
		row := controltest.Row(t, r.Store, old.ID)
		if l.Epoch != old.Fence.Epoch+1 || row.Fence.Epoch != l.Epoch || l.Session != "session-2" {
			t.Errorf("was %+v, the lease is %+v, the row's fence %+v", old.Fence, l, row.Fence)
		}
		if left := time.Until(l.ExpiresAt); left < 110*time.Second || left > 120*time.Second {
			t.Errorf("handed over for %s", left)
		}
		held, fence, err := r.WorkerLease(ctx, self, l.Resource)
		if err != nil || fence != row.Fence || held.Epoch != l.Epoch {
			t.Errorf("confirmed as %+v, %+v, %v; the row has %+v", held, fence, err, row.Fence)
		}
	}
}

// TestRenewalTakesAgain: a lease that ran out while its process was cut off comes back with a new
// epoch; one that was given away, or whose sandbox is gone, does not.
func TestRenewalTakesAgain(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	lapsed, taken, gone := r.MustCreate(t), r.MustCreate(t), r.MustCreate(t)
	if err := r.Destroy(r.Ctx, gone.ID); err != nil {
		t.Fatal(err)
	}
	controltest.Update(t, r.Store, func(tx store.Tx) error {
		for _, id := range []stacyvm.SandboxID{lapsed.ID, taken.ID} { // over almost at once
			if _, err := tx.Leases().Renew(t.Context(), self, "session-1", []store.Held{{Resource: string(id), Epoch: 1}}, time.Microsecond); err != nil {
				return err
			}
		}
		return nil
	})
	controltest.Update(t, r.Store, func(tx store.Tx) error {
		_, err := tx.Leases().Acquire(t.Context(), store.LeaseRequest{Resource: string(taken.ID), Type: "sandbox", Holder: "other", Session: "s", TTL: time.Minute})
		return err
	})
	ctx := controltest.AsWorker(t.Context(), self, auth.ScopeLease)
	renewal, err := r.RenewLeases(ctx, self, "session-1", false)
	if err != nil || len(renewal.Leases) != 1 || renewal.Leases[0].Resource != string(lapsed.ID) || renewal.Leases[0].Epoch != 2 {
		t.Errorf("%+v, %v", renewal, err)
	}
	_, _, err = r.WorkerLease(ctx, self, string(taken.ID))
	wantCode(t, err, stacyvm.CodeNotFound)
}

func TestRenewOneLease(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	sandbox := r.MustCreate(t)
	controltest.Update(t, r.Store, func(tx store.Tx) error {
		_, err := tx.Leases().Acquire(t.Context(), store.LeaseRequest{Resource: "upkeep", Type: "duty", Holder: self, Session: "session-1", TTL: time.Minute})
		return err
	})
	ctx := controltest.AsWorker(t.Context(), self, auth.ScopeLease)
	renewed, err := r.RenewLease(ctx, self, string(sandbox.ID), time.Hour)
	if left := time.Until(renewed.ExpiresAt); err != nil || left < 59*time.Minute || left > time.Hour || renewed.Epoch != sandbox.Fence.Epoch {
		t.Errorf("%+v, %v", renewed, err)
	}
	for _, ttl := range []time.Duration{0, -1, 25 * time.Hour} {
		_, err = r.RenewLease(ctx, self, string(sandbox.ID), ttl)
		wantCode(t, err, stacyvm.CodeInvalid)
	}
	for _, resource := range []string{"absent", "upkeep"} { // a duty is no worker's
		_, err = r.RenewLease(ctx, self, resource, time.Second)
		wantCode(t, err, stacyvm.CodeConflict)
		_, _, err = r.WorkerLease(ctx, self, resource)
		wantCode(t, err, stacyvm.CodeNotFound)
	}
	_, err = r.RenewLease(controltest.AsWorker(t.Context(), "other", auth.ScopeLease), "other", string(sandbox.ID), time.Second)
	wantCode(t, err, stacyvm.CodeConflict)
}

// TestAnOperatorsDrainLasts: over heartbeats, and over a process's end.
func TestAnOperatorsDrainLasts(t *testing.T) {
	r := &rig{controltest.NewRig(t, func(c *control.Config) { c.Self = "plane" })}
	ctx, admin := controltest.AsWorker(t.Context(), self, auth.ScopeHeartbeat), controltest.AsAdmin(t.Context())
	status := func(w cluster.Worker, err error) string {
		t.Helper()
		wantCode(t, err, "")
		return string(w.Status)
	}
	starting := controltest.Beat("session-2", true)
	starting.Status = "starting"
	steps := []struct{ name, got, want string }{
		{"drained", status(r.DrainWorker(admin, self)), "draining"},
		{"a heartbeat", status(r.Heartbeat(ctx, controltest.Beat("session-1", false))), "draining"},
		{"a new process", status(r.Heartbeat(ctx, starting)), "starting"},
		{"it acts", status(r.Heartbeat(ctx, controltest.Beat("session-2", false))), "draining"},
		{"one without a session", status(r.Heartbeat(ctx, controltest.Beat("", false))), "draining"},
		{"resumed", status(r.ResumeWorker(admin, self)), "online"},
		{"a heartbeat after that", status(r.Heartbeat(ctx, controltest.Beat("session-2", false))), "online"},
	}
	leaving := controltest.Beat("session-2", false)
	leaving.Status = "draining"
	steps = append(steps,
		struct{ name, got, want string }{"it leaves", status(r.Heartbeat(ctx, leaving)), "draining"},
		struct{ name, got, want string }{"it is back", status(r.Heartbeat(ctx, controltest.Beat("session-3", true))), "online"})
	for _, step := range steps {
		if step.got != step.want {
			t.Errorf("%s: %s, want %s", step.name, step.got, step.want)
		}
	}
	claimed := controltest.Beat("session-3", false)
	claimed.Capacity.Drained = true // a worker has no say in it
	if w, err := r.Heartbeat(ctx, claimed); err != nil || w.Capacity.Drained || w.Status != "online" {
		t.Errorf("%+v, %v", w, err)
	}
	wantCode(t, r.DeleteWorker(admin, self, true), "")
	_, err := r.Heartbeat(ctx, controltest.Beat("session-3", false))
	wantCode(t, err, stacyvm.CodeNotFound) // so that it registers, and has its sandboxes again
	_, err = r.RenewLeases(controltest.AsWorker(t.Context(), self, auth.ScopeLease), self, "session-3", false)
	wantCode(t, err, stacyvm.CodeNotFound)
	if got := status(r.Heartbeat(ctx, controltest.Beat("session-3", true))); got != "online" {
		t.Errorf("registered again as %s", got)
	}
}
