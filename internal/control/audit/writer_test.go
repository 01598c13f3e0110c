package audit_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// refused is what a store says of a line that it will never take.
var refused = stacyvm.Errorf(stacyvm.CodeInternal, "the database refused a value")

// eventually waits until the audit holds so many lines of an action. The journal writes them
// within 100 ms.
func (r *rig) eventually(t *testing.T, action string, want int) []stacyvm.Operation {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		lines := r.Operations(t, store.OperationFilter{Action: action, Limit: want + 1})
		if len(lines) == want {
			return lines
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d lines of %s, want %d", len(lines), action, want)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// poison is text that PostgreSQL refuses.
const poison = "a\x00b\xff"

// TestAuditGoesOnAfterTextThatADatabaseRefuses calls everything that writes a line of the audit
// with text that PostgreSQL refuses. The line after each is written, and none is lost.
func TestAuditGoesOnAfterTextThatADatabaseRefuses(t *testing.T) {
	r := &rig{controltest.NewRig(t, nil)}
	id := r.MustCreate(t).ID
	bad, ctx := stacyvm.SandboxID(poison), r.Ctx
	admin := auth.With(t.Context(), stacyvm.Principal{Scopes: []string{"admin:*"}})
	for name, call := range map[string]func(){
		"destroy":  func() { _ = r.Destroy(ctx, bad) },
		"extend":   func() { _, _ = r.Extend(ctx, bad, time.Minute) },
		"exec":     func() { _, _ = r.Exec(ctx, bad, control.ExecRequest{Command: poison}) },
		"start":    func() { _, _ = r.Start(ctx, bad, control.ExecRequest{Command: poison}) },
		"command":  func() { _, _ = r.Exec(ctx, id, control.ExecRequest{Command: poison}) },
		"read":     func() { _, _ = r.ReadFile(ctx, bad, poison) },
		"path":     func() { _, _ = r.ReadFile(ctx, id, poison) },
		"move":     func() { _ = r.MoveFile(ctx, id, poison, poison) },
		"glob":     func() { _, _ = r.GlobFiles(ctx, id, poison) },
		"provider": func() { _, _, _ = r.Create(ctx, control.CreateRequest{Provider: poison}, control.Idempotency{}) },
		"image":    func() { _, _, _ = r.Create(ctx, control.CreateRequest{Image: poison}, control.Idempotency{}) },
		"key":      func() { _, _, _ = r.Create(ctx, control.CreateRequest{}, control.Idempotency{Key: poison}) },
		"metadata": func() {
			_, _, _ = r.Create(ctx, control.CreateRequest{Metadata: map[string]string{poison: poison}}, control.Idempotency{})
		},
		"drain a worker": func() { _, _ = r.DrainWorker(admin, stacyvm.WorkerID(poison)) },
		"forget one":     func() { _ = r.DeleteWorker(admin, stacyvm.WorkerID(poison), true) },
		"administrators": func() { r.AuditAdmin(admin, stacyvm.AdminCall{Method: poison, Path: poison, UserAgent: poison}) },
	} {
		call()
		if dropped := r.Readiness(t.Context()).Dropped; dropped != 0 {
			t.Errorf("%s: %d lines are lost", name, dropped)
		}
	}
	_ = r.Destroy(ctx, "absent")
	lines := r.eventually(t, "sandbox.destroy", 2)
	if lines[0].SandboxID != "absent" || strings.Contains(string(lines[1].SandboxID), "\x00") {
		t.Errorf("audit: %+v", lines)
	}
	if dropped := r.Readiness(t.Context()).Dropped; dropped != 0 {
		t.Errorf("%d lines are lost", dropped)
	}
}

// TestALineThatTheStoreRefusesIsDroppedAlone has a store refuse a few lines for ever: the others
// are written, in their order.
func TestALineThatTheStoreRefusesIsDroppedAlone(t *testing.T) {
	s := &controltest.FaultStore{Store: controltest.OpenStore(t)}
	s.BeforeLine = func(line any) error {
		if o, ok := line.(stacyvm.Operation); ok && strings.HasPrefix(string(o.SandboxID), "bad") {
			return refused
		}
		return nil
	}
	r := &rig{controltest.NewRigOn(t, s, nil)}
	const good, bad = 300, 3
	for i := range good {
		if i%(good/bad) == 50 {
			_ = r.Destroy(r.Ctx, stacyvm.SandboxID(fmt.Sprintf("bad-%d", i)))
		}
		_ = r.Destroy(r.Ctx, stacyvm.SandboxID(fmt.Sprintf("good-%d", i)))
	}
	for i, line := range r.eventually(t, "sandbox.destroy", good) {
		if want := fmt.Sprintf("good-%d", good-1-i); string(line.SandboxID) != want {
			t.Fatalf("line %d is of %s, want %s", i, line.SandboxID, want)
		}
	}
	if dropped := r.Readiness(t.Context()).Dropped; dropped != bad {
		t.Errorf("%d lines are counted as lost, want %d", dropped, bad)
	}
}

// TestEachPartOfARefusedLineCounts: an event that the store refuses does not take the audit line
// with it.
func TestEachPartOfARefusedLineCounts(t *testing.T) {
	s := &controltest.FaultStore{Store: controltest.OpenStore(t)}
	s.BeforeLine = func(line any) error {
		if _, ok := line.(stacyvm.Event); ok {
			return refused
		}
		return nil
	}
	r := &rig{controltest.NewRigOn(t, s, func(c *control.Config) { c.Defaults.MaxExecTimeout = time.Second })}
	over := 2 * time.Second
	_, err := r.Exec(r.Ctx, "sb-000000000000000000000000", control.ExecRequest{Command: "x", Timeout: &over})
	wantCode(t, err, stacyvm.CodeLimit) // subscribers are told of it
	r.eventually(t, "exec", 1)
}

// knob makes a store's writes fail while it is true.
func knob(s *controltest.FaultStore, code stacyvm.Code) *atomic.Bool {
	away := new(atomic.Bool)
	s.BeforeUpdate = func(context.Context) error {
		if away.Load() {
			return stacyvm.Errorf(code, "not now")
		}
		return nil
	}
	return away
}

// TestAFaultThatPassesLosesNothing: the store is away, or full, for a while.
func TestAFaultThatPassesLosesNothing(t *testing.T) {
	for _, code := range []stacyvm.Code{stacyvm.CodeUnavailable, stacyvm.CodeStorageFull} {
		t.Run(string(code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := &controltest.FaultStore{Store: controltest.OpenSQLite(t)}
				away := knob(s, code)
				r := &rig{controltest.NewRigOn(t, s, nil)}
				away.Store(true)
				r.AuditAdmin(r.Ctx, stacyvm.AdminCall{Path: "/a"})
				time.Sleep(30 * time.Second)
				r.AuditAdmin(r.Ctx, stacyvm.AdminCall{Path: "/b"})
				time.Sleep(30 * time.Second)
				away.Store(false)
				time.Sleep(time.Second)
				var calls []stacyvm.AdminCall
				err := s.View(t.Context(), func(tx store.Tx) (err error) {
					calls, err = tx.AdminAudit().List(t.Context(), store.AdminFilter{})
					return err
				})
				if err != nil || len(calls) != 2 || calls[0].Path != "/b" || r.Readiness(t.Context()).Dropped != 0 {
					t.Errorf("calls %+v, %v", calls, err)
				}
			})
		})
	}
}

// TestACallerLeavesAFullQueue: while the store is away the queue fills up; whose context ends then
// does not wait any longer, and the line is counted.
func TestACallerLeavesAFullQueue(t *testing.T) {
	testneed.Patience(t)
	synctest.Test(t, func(t *testing.T) {
		s := &controltest.FaultStore{Store: controltest.OpenSQLite(t)}
		away := knob(s, stacyvm.CodeUnavailable)
		r := &rig{controltest.NewRigOn(t, s, nil)}
		away.Store(true)
		ctx, cancel := context.WithTimeout(r.Ctx, time.Hour)
		defer cancel()
		for n := 0; ctx.Err() == nil; n++ {
			if n > 10_000 {
				t.Fatal("the queue has no end")
			}
			r.AuditAdmin(ctx, stacyvm.AdminCall{Path: "/a"})
		}
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) || r.Readiness(t.Context()).Dropped != 1 {
			t.Errorf("%v, %d lines are lost, want 1", ctx.Err(), r.Readiness(t.Context()).Dropped)
		}
		away.Store(false) // for the end of the service
	})
}
