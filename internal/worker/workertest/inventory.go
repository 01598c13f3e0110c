package workertest

import (
	"bufio"
	"context"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/engine/mock"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

func testReasons(t *testing.T, m *Machine) {
	dead, mute, well := fresh(), fresh(), fresh()
	for _, ref := range []stacyvm.Ref{dead, mute, well} {
		m.create(t, ref)
	}
	m.Reopen(t) // no answer of before counts any more
	m.Engine.Kill(dead.ID)
	m.Engine.Mute(mute.ID)
	m.Engine.Inject(mock.Faults{CreateDelay: time.Hour})
	coming := fresh()
	ctx, cancel := context.WithCancel(bounded(t))
	var call sync.WaitGroup
	defer call.Wait()
	defer cancel()
	call.Go(func() { _, _ = m.Worker.Create(ctx, coming, request()) })
	until(t, "the create", func() bool { return len(m.runtimes(t)) == 4 })

	lines := m.inventory(t)
	for ref, phase := range map[stacyvm.Ref]worker.Phase{
		dead: worker.PhaseDead, mute: worker.PhaseSilent, well: worker.PhaseRunning, coming: worker.PhaseCreating,
	} {
		line, listed := lines[ref.ID]
		if !listed || line.Phase != phase || line.Fence != ref.Fence || line.Cluster != "ours" {
			t.Errorf("%+v: want phase %q", line, phase)
		}
	}
	_, err := m.Worker.Guest(bounded(t), coming, guest.ScopeExec)
	wantCode(t, "guest of one that is being created", err, stacyvm.CodeUnavailable)
	_, err = m.Worker.Guest(bounded(t), dead, guest.ScopeExec)
	if err == nil {
		_, err = m.client(t, dead, guest.ScopeExec).Ping(bounded(t))
	}
	wantCode(t, "guest of a dead one", err, stacyvm.CodeUnavailable)
}

func testInventoryComplete(t *testing.T, m *Machine) {
	ref := fresh()
	m.create(t, ref)
	m.Engine.Inject(mock.Faults{List: errBroken})
	inventory, err := m.Worker.Inventory(bounded(t))
	if err == nil {
		t.Errorf("the engine cannot say what it has, and the inventory says %+v", inventory)
	}
	ctx, cancel := context.WithCancel(bounded(t))
	cancel()
	m.Engine.Inject(mock.Faults{})
	if inventory, err := m.Worker.Inventory(ctx); err == nil {
		t.Errorf("interrupted, but complete: %+v", inventory)
	}
	if line := m.inventory(t)[ref.ID]; line.Phase != worker.PhaseRunning {
		t.Errorf("%+v", line)
	}
	m.Reopen(t)
	m.Engine.Mute(ref.ID)
	inventory, err = m.Worker.Inventory(bounded(t)) // that nobody has asked it yet is not the same as no answer
	if err != nil || len(inventory.Runtimes) != 1 || inventory.Runtimes[0].Phase != worker.PhaseUnknown || !inventory.Runtimes[0].CheckedAt.IsZero() {
		t.Errorf("before its guest was asked: %+v, %v", inventory, err)
	}
	if inventory, err := m.Worker.Inventory(bounded(t)); err != nil || inventory.Worker == "" {
		t.Errorf("the inventory does not say whose it is: %+v, %v", inventory, err)
	}
}

// testManyInInventory: guests that do not answer are waited for together, not one after the other.
func testManyInInventory(t *testing.T, m *Machine) {
	const many = 24
	for range many {
		ref := fresh()
		m.create(t, ref)
		m.Engine.Mute(ref.ID)
	}
	m.Reopen(t)
	began := time.Now()
	lines := m.inventory(t)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("%d silent guests were waited for %s", many, took)
	}
	if len(lines) != many {
		t.Errorf("%d lines", len(lines))
	}
	for _, line := range lines {
		if line.Phase != worker.PhaseSilent || line.CheckedAt.Before(began.Truncate(time.Microsecond)) {
			t.Errorf("%+v", line)
		}
	}
}

func testScopes(t *testing.T, m *Machine) {
	ref := fresh()
	m.create(t, ref)
	exec, files, logs := m.client(t, ref, guest.ScopeExec), m.client(t, ref, guest.ScopeFiles), m.client(t, ref, guest.ScopeLogs)
	if _, err := files.StatFile(bounded(t), "/workspace"); err != nil {
		t.Errorf("files: %v", err)
	}
	if _, err := exec.Processes(bounded(t)); err != nil {
		t.Errorf("exec: %v", err)
	}
	if _, err := logs.Tail(bounded(t), 1); err != nil {
		t.Errorf("logs: %v", err)
	}
	for what, call := range map[string]func() error{
		"exec reads files":  func() error { _, err := exec.StatFile(bounded(t), "/workspace"); return err },
		"exec reads logs":   func() error { _, err := exec.Tail(bounded(t), 1); return err },
		"files reads logs":  func() error { _, err := files.Tail(bounded(t), 1); return err },
		"files lists":       func() error { _, err := files.Processes(bounded(t)); return err },
		"files opens ports": func() error { _, err := files.Connect(bounded(t), 80); return err },
		"logs lists":        func() error { _, err := logs.Processes(bounded(t)); return err },
		"logs reads files":  func() error { _, err := logs.StatFile(bounded(t), "/workspace"); return err },
	} {
		wantCode(t, what, call(), stacyvm.CodeForbidden)
	}
}

// testReconnect: a connection that cannot be made now is made by a later request.
func testReconnect(t *testing.T, m *Machine) {
	ref := fresh()
	m.create(t, ref)
	before := m.bootID(t, ref)
	m.Reopen(t)
	m.Engine.Inject(mock.Faults{Dials: 1})
	_, err := m.Worker.Guest(bounded(t), ref, guest.ScopeExec)
	wantCode(t, "guest", err, stacyvm.CodeUnavailable)
	if after := m.bootID(t, ref); after != before {
		t.Error("the guest was started anew")
	}
}

func testNoRuntime(t *testing.T, m *Machine) {
	_, err := m.Worker.Guest(bounded(t), fresh(), guest.ScopeExec)
	wantCode(t, "guest", err, stacyvm.CodeNotFound)
	_, err = m.Worker.DialPort(bounded(t), fresh(), 80)
	wantCode(t, "dial", err, stacyvm.CodeNotFound)
	m.destroy(t, fresh())
	m.empty(t)
}

// echo is a server that answers its first connection's lines; it prints its port first.
const echo = `perl -MSocket -e '$|=1; socket(S,PF_INET,SOCK_STREAM,0); bind(S,sockaddr_in(0,INADDR_LOOPBACK)); listen(S,5);
print((sockaddr_in(getsockname(S)))[0],"\n"); accept(C,S); select(C); $|=1; print C while <C>'`

func testPorts(t *testing.T, m *Machine) {
	ref := fresh()
	m.create(t, ref)
	o, err := m.client(t, ref, guest.ScopeExec).Run(bounded(t), stacyvm.Command{Argv: []string{"/bin/sh", "-c", echo}})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	var printed string
	for !strings.Contains(printed, "\n") {
		event, err := o.Next(bounded(t))
		if err != nil || event.Exit != nil {
			t.Fatalf("the server in the sandbox: %+v, %v", event.Exit, err)
		}
		printed += string(event.Data)
	}
	port, err := strconv.ParseUint(strings.TrimSpace(printed), 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := m.Worker.DialPort(bounded(t), ref, uint16(port))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(within))
	if _, err := conn.Write([]byte("hello\n")); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "hello\n" {
		t.Errorf("the port answers %q, %v", line, err)
	}
	_, err = m.Worker.DialPort(bounded(t), ref, 1)
	wantCode(t, "a port without a listener", err, stacyvm.CodeUnavailable)
	_, err = m.Worker.DialPort(bounded(t), ref, 0)
	wantCode(t, "port 0", err, stacyvm.CodeInvalid)
}

func testProviders(t *testing.T, m *Machine) {
	ref := fresh()
	m.create(t, ref)
	providers, err := m.Worker.Providers(bounded(t))
	if err != nil || len(providers) != 1 {
		t.Fatalf("%+v, %v", providers, err)
	}
	p := providers[0]
	if p.Name != mock.Name || !p.Default || p.Error != "" || !p.Capabilities.Usable || p.Runtimes != 1 || p.CheckedAt.IsZero() {
		t.Errorf("%+v", p)
	}
	if p.Capabilities.Isolates || len(p.Capabilities.Problems) == 0 {
		t.Errorf("the mock does not say that it isolates nothing: %+v", p)
	}
}
