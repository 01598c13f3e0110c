package workertest

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/engine/mock"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

func testDestroy(t *testing.T, m *Machine) {
	ref := fresh()
	m.create(t, ref)
	m.bootID(t, ref)
	for range 2 {
		m.destroy(t, ref)
	}
	m.empty(t)
	_, err := m.Worker.Guest(bounded(t), ref, guest.ScopeExec)
	wantCode(t, "guest", err, stacyvm.CodeNotFound)

	dead := fresh()
	m.create(t, dead)
	m.Engine.Kill(dead.ID)
	m.destroy(t, dead)
	m.empty(t)
}

func testDestroyFails(t *testing.T, m *Machine) {
	ref := fresh()
	m.create(t, ref)
	m.Engine.Inject(mock.Faults{Destroy: errBroken})
	wantCode(t, "destroy", m.Worker.Destroy(bounded(t), ref), stacyvm.CodeInternal)
	if _, listed := m.inventory(t)[ref.ID]; !listed {
		t.Error("it is still there, but not in the inventory")
	}
	m.Engine.Inject(mock.Faults{})
	m.destroy(t, ref)
	m.empty(t)
}

func testDestroyDuringCreate(t *testing.T, m *Machine) {
	m.Engine.Inject(mock.Faults{Hang: true})
	ref := fresh()
	done := make(chan error)
	go func() {
		_, err := m.Worker.Create(bounded(t), ref, request())
		done <- err
	}()
	until(t, "the create", func() bool { return len(m.runtimes(t)) == 1 })
	stale := at(ref.ID, 0)
	wantCode(t, "stale destroy", m.Worker.Destroy(bounded(t), stale), stacyvm.CodeStaleEpoch)
	select {
	case err := <-done:
		t.Fatalf("a stale destroy ended the create: %v", err)
	default:
	}
	m.destroy(t, ref)
	wantCode(t, "the create", <-done, stacyvm.CodeConflict)
	m.Engine.Inject(mock.Faults{})
	m.empty(t)
}

// testRaces lets creates and a destroy of one sandbox meet at many moments. Whatever happened,
// after the destroy there is nothing, and nothing comes back.
func testRaces(t *testing.T, m *Machine) {
	for round := range 30 {
		delay := time.Duration(round%6) * time.Millisecond
		m.Engine.Inject(mock.Faults{CreateDelay: delay})
		ref := fresh()
		var calls sync.WaitGroup
		for range 3 {
			calls.Go(func() {
				_, err := m.Worker.Create(bounded(t), ref, request())
				wantCode(t, "create", err, "", stacyvm.CodeConflict, stacyvm.CodeStaleEpoch)
			})
		}
		calls.Go(func() {
			timer := time.NewTimer(time.Duration(round) * 300 * time.Microsecond)
			defer timer.Stop()
			<-timer.C
			if err := m.Worker.Destroy(bounded(t), ref); err != nil {
				t.Errorf("destroy: %v", err)
			}
		})
		calls.Wait()
		_, err := m.Worker.Create(bounded(t), ref, request())
		wantCode(t, "create after the destroy", err, stacyvm.CodeStaleEpoch)
	}
	m.Engine.Inject(mock.Faults{})
	m.empty(t)
}

func testFences(t *testing.T, m *Machine) {
	id := stacyvm.NewSandboxID()
	m.create(t, at(id, 5))
	before := m.bootID(t, at(id, 5))
	m.bootID(t, at(id, 6)) // a newer owner asks: from now on the older is refused

	refused := func() {
		t.Helper()
		for _, stale := range []stacyvm.Ref{at(id, 5), {ID: id, Fence: stacyvm.Fence{Incarnation: 1, Epoch: 99}}, {ID: id}} {
			_, err := m.Worker.Create(bounded(t), stale, request())
			wantCode(t, "create", err, stacyvm.CodeStaleEpoch)
			wantCode(t, "destroy", m.Worker.Destroy(bounded(t), stale), stacyvm.CodeStaleEpoch)
			_, err = m.Worker.Guest(bounded(t), stale, guest.ScopeExec)
			wantCode(t, "guest", err, stacyvm.CodeStaleEpoch)
			_, err = m.Worker.DialPort(bounded(t), stale, 80)
			wantCode(t, "dial", err, stacyvm.CodeStaleEpoch)
		}
		if line := m.inventory(t)[id]; line.Phase != worker.PhaseRunning || line.Fence != at(id, 6).Fence {
			t.Errorf("the inventory says %+v", line)
		}
	}
	refused()
	m.Reopen(t)
	refused()
	if m.bootID(t, at(id, 6)) != before {
		t.Error("a refused call started the guest anew")
	}
	newer := stacyvm.Ref{ID: id, Fence: stacyvm.Fence{Incarnation: 3, Epoch: 1}} // a restored cluster begins again
	m.bootID(t, newer)
	wantCode(t, "older incarnation", m.Worker.Destroy(bounded(t), at(id, 100)), stacyvm.CodeStaleEpoch)
	m.destroy(t, newer)
	m.empty(t)
}

// testExpiry: a changed expiry is in the inventory, also after a restart; an older owner changes
// none.
func testExpiry(t *testing.T, m *Machine) {
	expire := func(ref stacyvm.Ref, at time.Time) error { return worker.Expire(bounded(t), m.Worker, ref, at) }
	id := stacyvm.NewSandboxID()
	m.create(t, at(id, 5))
	made := m.inventory(t)[id].Request.ExpiresAt
	later, earlier := made.Add(2*time.Hour), made.Add(-time.Minute)
	for _, wanted := range []time.Time{later, earlier, later} {
		if err := expire(at(id, 6), wanted); err != nil {
			t.Fatal(err)
		}
		line := m.inventory(t)[id]
		if !line.Request.ExpiresAt.Equal(wanted) || line.Fence != at(id, 6).Fence || line.Phase != worker.PhaseRunning {
			t.Errorf("%+v: want expiry %s", line, wanted)
		}
	}
	wantCode(t, "of an older owner", expire(at(id, 5), earlier), stacyvm.CodeStaleEpoch)
	wantCode(t, "of no sandbox", expire(fresh(), later), stacyvm.CodeNotFound)
	m.Reopen(t)
	if line := m.inventory(t)[id]; !line.Request.ExpiresAt.Equal(later) || line.Request.OwnerID != "anne" {
		t.Errorf("after a restart: %+v", line)
	}
	m.destroy(t, at(id, 6))
	wantCode(t, "of a destroyed one", expire(at(id, 6), later), stacyvm.CodeNotFound)
}

func testSpentFence(t *testing.T, m *Machine) {
	made, never := stacyvm.NewSandboxID(), stacyvm.NewSandboxID()
	m.create(t, at(made, 5))
	m.destroy(t, at(made, 5))
	m.destroy(t, at(never, 5)) // the create is still on its way
	for _, reopen := range []func(*testing.T){nil, m.Reopen, m.Reboot} {
		if reopen != nil {
			reopen(t)
		}
		for _, id := range []stacyvm.SandboxID{made, never} {
			for _, epoch := range []int64{4, 5} {
				_, err := m.Worker.Create(bounded(t), at(id, epoch), request())
				wantCode(t, "late create", err, stacyvm.CodeStaleEpoch)
			}
			wantCode(t, "late destroy", m.Worker.Destroy(bounded(t), at(id, 4)), stacyvm.CodeStaleEpoch)
		}
		m.empty(t)
	}
	m.create(t, at(made, 6)) // a newer owner knows better
	m.destroy(t, at(made, 6))
}

// testTakeover: a newer owner's create joins the one that is under way.
func testTakeover(t *testing.T, m *Machine) {
	m.Engine.Inject(mock.Faults{CreateDelay: 30 * time.Millisecond})
	id := stacyvm.NewSandboxID()
	var calls sync.WaitGroup
	calls.Go(func() {
		_, err := m.Worker.Create(bounded(t), at(id, 1), request())
		wantCode(t, "first create", err, "")
	})
	until(t, "the create", func() bool { return len(m.runtimes(t)) == 1 })
	m.create(t, at(id, 2))
	calls.Wait()
	if line := m.inventory(t)[id]; line.Fence != at(id, 2).Fence || len(m.runtimes(t)) != 1 {
		t.Errorf("%+v", line)
	}
	_, err := m.Worker.Guest(bounded(t), at(id, 1), guest.ScopeExec)
	wantCode(t, "the older owner", err, stacyvm.CodeStaleEpoch)
}

func testReopen(t *testing.T, m *Machine) {
	ref := fresh()
	created := m.create(t, ref)
	before := m.bootID(t, ref)
	process, err := m.client(t, ref, guest.ScopeExec).Start(bounded(t), stacyvm.Command{
		Argv: []string{"/bin/sh", "-c", "echo before; read line; echo $line"}, Stdin: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	m.Reopen(t)
	if line := m.inventory(t)[ref.ID]; line.Phase != worker.PhaseRunning || line.Created.RuntimeID != created.RuntimeID || line.Request.OwnerID != "anne" {
		t.Errorf("inventory: %+v", line)
	}
	again := m.client(t, ref, guest.ScopeExec)
	if _, err := again.Input(bounded(t), process.ID, []byte("after\n"), nil, true); err != nil {
		t.Fatal(err)
	}
	if ended, err := again.Wait(bounded(t), process.ID); err != nil || ended.Exit.Code != 0 || ended.Stdout.Bytes != uint64(len("before\nafter\n")) {
		t.Errorf("the command ended as %+v, %v", ended, err)
	}
	if m.bootID(t, ref) != before {
		t.Error("the guest was started anew")
	}
	if found := m.create(t, ref); found.RuntimeID != created.RuntimeID || m.bootID(t, ref) != before {
		t.Error("a create after the restart made something")
	}
	m.destroy(t, ref)
	m.empty(t)
}

// testReopenDuringCreate: a worker that ends undoes what it has begun.
func testReopenDuringCreate(t *testing.T, m *Machine) {
	m.Engine.Inject(mock.Faults{Hang: true})
	ref, w := fresh(), m.Worker
	done := make(chan error)
	go func() {
		_, err := w.Create(context.WithoutCancel(t.Context()), ref, request())
		done <- err
	}()
	until(t, "the create", func() bool { return len(m.runtimes(t)) == 1 })
	m.Reopen(t)
	wantCode(t, "the create", <-done, stacyvm.CodeUnavailable)
	m.Engine.Inject(mock.Faults{})
	m.empty(t)
	m.create(t, ref)
}

func testReboot(t *testing.T, m *Machine) {
	kept, redone := fresh(), fresh()
	m.create(t, kept)
	m.create(t, redone)
	m.Reboot(t)
	if lines := m.inventory(t); len(lines) != 0 {
		t.Errorf("nothing runs, but the inventory says %+v", lines)
	}
	_, err := m.Worker.Guest(bounded(t), kept, guest.ScopeExec)
	wantCode(t, "guest", err, stacyvm.CodeNotFound)
	m.create(t, redone)
	m.bootID(t, redone)
	m.destroy(t, kept)
	m.destroy(t, redone)
	m.empty(t)
}
