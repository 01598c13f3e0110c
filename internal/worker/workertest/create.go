package workertest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/engine/mock"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

var errBroken = errors.New("broken on purpose")

func testCreate(t *testing.T, m *Machine) {
	ref, asked := fresh(), request()
	created, err := m.Worker.Create(bounded(t), ref, asked)
	if err != nil {
		t.Fatal(err)
	}
	if created.RuntimeID == "" {
		t.Error("the runtime has no name")
	}
	if want := []stacyvm.Limit{stacyvm.LimitCPU, stacyvm.LimitDisk, stacyvm.LimitMemory}; !slices.Equal(want, without(slices.Sorted(slices.Values(created.Unenforced)), stacyvm.LimitPids)) {
		t.Errorf("unenforced %q, want %q", created.Unenforced, want)
	}
	if out := m.output(t, ref, `printf %s "$GREETING"`); out != "hello" {
		t.Errorf("a command prints %q", out)
	}
	line := m.inventory(t)[ref.ID]
	if line.Phase != worker.PhaseRunning || line.Fence != ref.Fence || line.Cluster != "ours" || line.CreatedAt.IsZero() {
		t.Errorf("inventory: %+v", line)
	}
	if line.Request.OwnerID != "anne" || line.Request.TenantID != "acme" || !line.Request.ExpiresAt.Equal(asked.ExpiresAt) || line.Request.Spec.MemoryMB != 128 {
		t.Errorf("inventory tells of the request %+v", line.Request)
	}
	if line.Created.RuntimeID != created.RuntimeID || len(line.Created.Unenforced) != len(created.Unenforced) {
		t.Errorf("inventory says %+v, create said %+v", line.Created, created)
	}
	labels := m.runtimes(t)[0].Labels
	for name, want := range map[string]string{
		engine.LabelCluster: "ours", engine.LabelIncarnation: "2", engine.LabelEpoch: "1",
		engine.LabelOwner: "anne", engine.LabelTenant: "acme",
	} {
		if labels[name] != want {
			t.Errorf("label %s is %q, want %q", name, labels[name], want)
		}
	}
}

func without(list []stacyvm.Limit, limit stacyvm.Limit) []stacyvm.Limit {
	return slices.DeleteFunc(list, func(l stacyvm.Limit) bool { return l == limit })
}

// output runs a shell command to its end and gives what it printed.
func (m *Machine) output(t *testing.T, ref stacyvm.Ref, script string) string {
	t.Helper()
	o, err := m.client(t, ref, guest.ScopeExec).Run(bounded(t), stacyvm.Command{Argv: []string{"/bin/sh", "-c", script}})
	if err != nil {
		t.Fatalf("%s: %v", script, err)
	}
	defer o.Close()
	var text string
	for {
		event, err := o.Next(bounded(t))
		if err != nil {
			t.Fatalf("%s: %v", script, err)
		}
		if event.Exit != nil {
			return text
		}
		text += string(event.Data)
	}
}

func testCreateTwice(t *testing.T, m *Machine) {
	ref := fresh()
	first := m.create(t, ref)
	before := m.bootID(t, ref)
	second := m.create(t, ref)
	if first.RuntimeID != second.RuntimeID || !slices.Equal(first.Unenforced, second.Unenforced) {
		t.Errorf("%+v, then %+v", first, second)
	}
	if m.bootID(t, ref) != before || len(m.runtimes(t)) != 1 {
		t.Error("the second create made something")
	}
}

func testCreateTogether(t *testing.T, m *Machine) {
	m.Engine.Inject(mock.Faults{CreateDelay: 50 * time.Millisecond})
	ref := fresh()
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			if _, err := m.Worker.Create(bounded(t), ref, request()); err != nil {
				t.Errorf("create: %v", err)
			}
		})
	}
	calls.Wait()
	if n := len(m.runtimes(t)); n != 1 {
		t.Errorf("%d runtimes", n)
	}
	m.bootID(t, ref)
}

// testParallel needs creates to overlap: each hangs until it is given up, and all are given up
// when all hang.
func testParallel(t *testing.T, m *Machine) {
	m.Engine.Inject(mock.Faults{Hang: true})
	ctx, cancel := context.WithCancel(bounded(t))
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			_, err := m.Worker.Create(ctx, fresh(), request())
			wantCode(t, "create", err, stacyvm.CodeUnavailable)
		})
	}
	until(t, "eight creates at once", func() bool { return len(m.runtimes(t)) == 8 })
	cancel()
	calls.Wait()
	m.Engine.Inject(mock.Faults{})
	m.empty(t)
}

func testFailedCreates(t *testing.T, m *Machine) {
	changed := func(change func(*worker.CreateRequest)) worker.CreateRequest {
		asked := request()
		change(&asked)
		return asked
	}
	unsupported := stacyvm.Errorf(stacyvm.CodeStorageFull, "no room")
	for name, c := range map[string]struct {
		faults  mock.Faults
		request worker.CreateRequest
		code    stacyvm.Code
	}{
		"no such image":       {mock.Faults{}, changed(func(r *worker.CreateRequest) { r.Spec.Image = "absent" }), stacyvm.CodeNotFound},
		"no such engine":      {mock.Faults{}, changed(func(r *worker.CreateRequest) { r.Spec.Provider = "absent" }), stacyvm.CodeNotFound},
		"fails before":        {mock.Faults{Create: errBroken}, request(), stacyvm.CodeInternal},
		"fails with a code":   {mock.Faults{Create: unsupported}, request(), stacyvm.CodeStorageFull},
		"fails and leaves it": {mock.Faults{BreakCreate: errBroken}, request(), stacyvm.CodeInternal},
	} {
		t.Run(name, func(t *testing.T) {
			m.Engine.Inject(c.faults)
			ref := fresh()
			_, err := m.Worker.Create(bounded(t), ref, c.request)
			wantCode(t, "create", err, c.code)
			m.Engine.Inject(mock.Faults{})
			m.empty(t)
			m.create(t, ref) // the same fence may try again
			m.destroy(t, ref)
			m.empty(t)
		})
	}
}

func testNotUndone(t *testing.T, m *Machine) {
	m.Engine.Inject(mock.Faults{BreakCreate: errBroken, Destroy: errBroken})
	ref := fresh()
	_, err := m.Worker.Create(bounded(t), ref, request())
	wantCode(t, "create", err, stacyvm.CodeInternal)
	if line, listed := m.inventory(t)[ref.ID]; !listed || line.Fence != ref.Fence || line.Cluster != "ours" {
		t.Errorf("it is on the machine, and the inventory says %+v", line)
	}
	m.Engine.Inject(mock.Faults{})
	m.destroy(t, ref)
	m.empty(t)
}

func testCancelled(t *testing.T, m *Machine) {
	m.Engine.Inject(mock.Faults{Hang: true})
	ref := fresh()
	ctx, cancel := context.WithCancel(bounded(t))
	done := make(chan error)
	go func() {
		_, err := m.Worker.Create(ctx, ref, request())
		done <- err
	}()
	until(t, "the create", func() bool { return len(m.runtimes(t)) == 1 })
	cancel()
	wantCode(t, "cancelled create", <-done, stacyvm.CodeUnavailable)
	m.empty(t)
	ctx, cancel = context.WithTimeout(bounded(t), 20*time.Millisecond)
	defer cancel()
	_, err := m.Worker.Create(ctx, ref, request())
	wantCode(t, "late create", err, stacyvm.CodeTimeout)
	m.Engine.Inject(mock.Faults{})
	m.empty(t)
	m.create(t, ref)
}

func testBadIDs(t *testing.T, m *Machine) {
	for _, id := range []stacyvm.SandboxID{"", "..", "../escape", "sb-XYZ", "sb-0123456789abcdef0123456789"} {
		_, err := m.Worker.Create(bounded(t), at(id, 1), request())
		wantCode(t, "create", err, stacyvm.CodeInvalid)
		wantCode(t, "destroy", m.Worker.Destroy(bounded(t), at(id, 1)), stacyvm.CodeInvalid)
		_, err = m.Worker.Guest(bounded(t), at(id, 1), guest.ScopeExec)
		wantCode(t, "guest", err, stacyvm.CodeNotFound, stacyvm.CodeInvalid)
	}
	m.empty(t)
}
