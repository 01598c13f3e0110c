package local_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/engine/mock"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/testneed"
	"github.com/stacyvm/stacyvm/internal/worker"
	"github.com/stacyvm/stacyvm/internal/worker/local"
	"github.com/stacyvm/stacyvm/internal/worker/workertest"
)

var errBroken = errors.New("broken on purpose")

func TestImages(t *testing.T) {
	m := open(t)
	held := func(want ...string) {
		t.Helper()
		if got, _ := m.images.Holders(); !slices.Equal(got, want) {
			t.Errorf("held by %q, want %q", got, want)
		}
	}
	ref := at(1)
	m.images.fail(errBroken, nil)
	_, err := m.Worker.Create(t.Context(), ref, request())
	wantCode(t, "create without an image", err, stacyvm.CodeInternal)
	m.images.fail(nil, nil)
	m.nothing(t)
	m.create(t, ref)
	held(string(ref.ID))
	conn, err := m.Worker.Guest(t.Context(), ref, guest.ScopeExec)
	if err != nil {
		t.Fatal(err)
	}
	p, err := guest.NewClient(conn).Start(t.Context(), stacyvm.Command{Argv: []string{"/bin/sh", "-c", `test "$FROM_IMAGE$GREETING" = yeshello`}})
	if err != nil {
		t.Fatal(err)
	}
	if p, err = guest.NewClient(conn).Wait(t.Context(), p.ID); err != nil || p.Exit.Code != 0 {
		t.Errorf("the image's variables below the spec's: %+v, %v", p.Exit, err)
	}

	m.images.fail(nil, errBroken) // what is still held is not forgotten
	if err := m.Worker.Destroy(t.Context(), ref); err == nil {
		t.Error("a destroy that could not release the image succeeds")
	}
	held(string(ref.ID))
	m.images.fail(nil, nil)
	m.destroy(t, ref)
	held()

	// After a loss of power holds may be back. Those of another worker's sandboxes are not ours.
	foreign := string(stacyvm.NewSandboxID())
	m.images.held[string(ref.ID)], m.images.held[foreign] = workertest.Image, workertest.Image
	here := at(1)
	m.create(t, here)
	m.Reopen(t)
	m.inventory(t)
	want := []string{string(here.ID), foreign}
	slices.Sort(want)
	held(want...)
}

// named is an engine under another name that counts its probes.
type named struct {
	engine.Engine
	name   string
	probes atomic.Int64
	gate   chan struct{} // a probe waits for it
}

func (n *named) Name() string { return n.name }
func (n *named) Probe(ctx context.Context) (engine.Capabilities, error) {
	n.probes.Add(1)
	if n.gate != nil {
		select {
		case <-n.gate:
		case <-ctx.Done():
			return engine.Capabilities{}, ctx.Err()
		}
	}
	return n.Engine.Probe(ctx)
}

// other gives a further engine.
func other(t *testing.T, name string) (*named, *mock.Engine) {
	t.Helper()
	e, err := mock.Open(mock.Config{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close() })
	return &named{Engine: e, name: name}, e
}

func TestProbes(t *testing.T) {
	m := open(t)
	e, faulty := other(t, "other")
	e.gate = make(chan struct{})
	w := m.start(t, e)
	defer w.Close()

	short, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if p, err := w.Providers(short); err != nil || p[0].Error == "" || p[0].Name != "other" {
		t.Errorf("while it is probed: %+v, %v", p, err)
	}
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			if p, err := w.Providers(t.Context()); err != nil || p[0].Error != "" || !p[0].Capabilities.Usable || p[0].Latency <= 0 {
				t.Errorf("%+v, %v", p, err)
			}
		})
	}
	close(e.gate)
	calls.Wait()
	if n := e.probes.Load(); n != 1 {
		t.Errorf("%d probes", n)
	}

	faulty.Inject(mock.Faults{Unusable: "no more"}) // a result counts for a while, and a create does not ask again
	asked := request()
	asked.Spec.Provider = "other"
	ref := at(1)
	if _, err := w.Create(t.Context(), ref, asked); err != nil {
		t.Error(err)
	}
	if err := w.Destroy(t.Context(), ref); err != nil {
		t.Error(err)
	}
}

func TestUnusableEngine(t *testing.T) {
	m := open(t)
	e, faulty := other(t, "other")
	asked := request()
	asked.Spec.Provider = "other"

	faulty.Inject(mock.Faults{Unusable: "no kernel", List: errBroken})
	w := m.start(t, m.Engine, e)
	_, err := w.Create(t.Context(), at(1), asked)
	wantCode(t, "create", err, stacyvm.CodeUnsupported)
	if inventory, err := w.Inventory(t.Context()); err != nil || len(inventory.Runtimes) != 0 {
		t.Errorf("an engine that cannot run here stops the inventory: %+v, %v", inventory, err)
	}
	w.Close()

	faulty.Inject(mock.Faults{Probe: errBroken, List: errBroken})
	w = m.start(t, m.Engine, e)
	_, err = w.Create(t.Context(), at(1), asked)
	wantCode(t, "create", err, stacyvm.CodeUnavailable)
	if inventory, err := w.Inventory(t.Context()); err == nil {
		t.Errorf("an engine that may have runtimes is silent, and the inventory says %+v", inventory)
	}
	w.Close()

	faulty.Inject(mock.Faults{})
	w = m.start(t, m.Engine, e)
	ref := at(1)
	if _, err := w.Create(t.Context(), ref, asked); err != nil {
		t.Fatal(err)
	}
	w.Close()
	faulty.Inject(mock.Faults{Unusable: "no kernel", List: errBroken})
	w = m.start(t, m.Engine, e)
	if inventory, err := w.Inventory(t.Context()); err == nil {
		t.Errorf("an engine that has a sandbox is silent, and the inventory says %+v", inventory)
	}
	w.Close()

	w = m.start(t, m.Engine) // the engine was taken out of the configuration
	_, err = w.Guest(t.Context(), ref, guest.ScopeExec)
	wantCode(t, "guest", err, stacyvm.CodeUnavailable)
	wantCode(t, "destroy", w.Destroy(t.Context(), ref), stacyvm.CodeUnavailable)
	w.Close()
	faulty.Inject(mock.Faults{})
	w = m.start(t, m.Engine, e)
	defer w.Close()
	if err := w.Destroy(t.Context(), ref); err != nil {
		t.Error(err)
	}
}

func TestClosed(t *testing.T) {
	m := open(t)
	ref := at(1)
	m.create(t, ref)
	w := m.Worker.(*local.Worker)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := w.Create(t.Context(), ref, request())
	wantCode(t, "create", err, stacyvm.CodeUnavailable)
	wantCode(t, "destroy", w.Destroy(t.Context(), ref), stacyvm.CodeUnavailable)
	_, err = w.Inventory(t.Context())
	wantCode(t, "inventory", err, stacyvm.CodeUnavailable)
	_, err = w.Providers(t.Context())
	wantCode(t, "providers", err, stacyvm.CodeUnavailable)
	_, err = w.Guest(t.Context(), ref, guest.ScopeExec)
	wantCode(t, "guest", err, stacyvm.CodeUnavailable)
	m.Worker = m.start(t, m.Engine)
	if line := m.inventory(t)[ref.ID]; line.Phase != worker.PhaseRunning {
		t.Errorf("the runtime did not stay: %+v", line)
	}
}

// TestCyclesLeaveNothing: descriptors are back where they were, and so are goroutines, which
// TestMain counts.
func TestCyclesLeaveNothing(t *testing.T) {
	m := open(t)
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			testneed.Missing(t, "proc", err.Error())
		}
		return len(entries)
	}
	var before int
	for cycle := range 60 {
		ref := at(1)
		m.create(t, ref)
		conn, err := m.Worker.Guest(t.Context(), ref, guest.ScopeExec)
		if err != nil {
			t.Fatal(err)
		}
		if p, err := guest.NewClient(conn).Start(t.Context(), stacyvm.Command{Argv: []string{"/bin/true"}}); err != nil {
			t.Fatal(p, err)
		}
		m.destroy(t, ref)
		if cycle == 9 {
			before = descriptors()
		}
	}
	if after := descriptors(); after > before+5 {
		t.Errorf("%d descriptors, then %d", before, after)
	}
	m.nothing(t)
}

func TestClear(t *testing.T) {
	m := open(t)
	for range 3 {
		m.create(t, at(7))
	}
	unknown := at(9)
	m.create(t, unknown)
	m.edit(t, unknown.ID, func(string) string { return "" })
	m.Reopen(t)
	if err := m.Worker.(*local.Worker).Clear(t.Context()); err != nil {
		t.Fatal(err)
	}
	m.nothing(t)
}

func TestOpen(t *testing.T) {
	e, _ := other(t, "other")
	file := t.TempDir() + "/file"
	write(t, file, nil)
	for name, config := range map[string]local.Config{
		"no engine":       {Dir: t.TempDir()},
		"no such default": {Dir: t.TempDir(), Engines: []engine.Engine{e}, Default: "absent"},
		"no directory":    {Engines: []engine.Engine{e}},
		"a file":          {Dir: file, Engines: []engine.Engine{e}},
	} {
		w, err := local.Open(config)
		wantCode(t, name, err, stacyvm.CodeInvalid)
		if w != nil {
			t.Errorf("%s: a worker", name)
		}
	}
}

// TestJournalThatIsNoFile: nobody waits for what writes into a pipe.
func TestJournalThatIsNoFile(t *testing.T) {
	e, _ := other(t, "other")
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, local.LogName), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := local.Open(local.Config{Dir: dir, Engines: []engine.Engine{e}})
	wantCode(t, "a pipe", err, stacyvm.CodeInternal)
}

// BenchmarkGuest is the part of every command that is the worker's.
func BenchmarkGuest(b *testing.B) {
	e, err := mock.Open(mock.Config{Dir: b.TempDir()})
	if err != nil {
		b.Fatal(err)
	}
	defer e.Close()
	w, err := local.Open(local.Config{ID: "here", Dir: b.TempDir(), Engines: []engine.Engine{e}, Images: &images{held: map[string]string{}}})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Close()
	ref := at(1)
	if _, err := w.Create(b.Context(), ref, request()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := w.Guest(b.Context(), ref, guest.ScopeExec); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// at gives a ref of a new sandbox.
func at(epoch int64) stacyvm.Ref {
	return stacyvm.Ref{ID: stacyvm.NewSandboxID(), Fence: stacyvm.Fence{Incarnation: 2, Epoch: epoch}}
}

func request() worker.CreateRequest {
	return worker.CreateRequest{
		Cluster: "ours", OwnerID: "anne", TenantID: "acme", ExpiresAt: time.Now().Add(time.Hour),
		Spec: stacyvm.Spec{Image: workertest.Image, MemoryMB: 64, VCPUs: 1, DiskMB: 64, Env: map[string]string{"GREETING": "hello"}},
	}
}

// slowRemoval is an engine whose removals stop halfway: the runtime does not run any more and is
// still listed.
type slowRemoval struct {
	*mock.Engine
	halfway, goOn chan struct{}
}

func (s slowRemoval) Remove(ctx context.Context, id stacyvm.SandboxID) error {
	s.Kill(id)
	close(s.halfway)
	<-s.goOn
	return s.Engine.Remove(ctx, id)
}

// TestInventoryDuringDestroy: a sandbox that is being destroyed did not die.
func TestInventoryDuringDestroy(t *testing.T) {
	m := open(t)
	ref := at(1)
	m.create(t, ref)
	if err := m.Worker.(*local.Worker).Close(); err != nil { // so that it is removed by its id
		t.Fatal(err)
	}
	slow := slowRemoval{m.Engine, make(chan struct{}), make(chan struct{})}
	m.Worker = m.start(t, slow)
	done := make(chan error, 1)
	go func() { done <- m.Worker.Destroy(t.Context(), ref) }()
	<-slow.halfway
	inventory, err := m.Worker.Inventory(t.Context())
	close(slow.goOn)
	if err := <-done; err != nil {
		t.Error(err)
	}
	m.nothing(t)
	if err != nil || len(inventory.Runtimes) != 1 {
		t.Fatalf("%+v, %v", inventory.Runtimes, err)
	}
	if line := inventory.Runtimes[0]; line.Phase != worker.PhaseUnknown || line.Cause.Reason != "" {
		t.Errorf("it is said to be %q, for %+v", line.Phase, line.Cause)
	}
}

func (m *machine) create(t *testing.T, ref stacyvm.Ref) {
	t.Helper()
	if _, err := m.Worker.Create(t.Context(), ref, request()); err != nil {
		t.Fatalf("create: %v", err)
	}
}

func (m *machine) destroy(t *testing.T, ref stacyvm.Ref) {
	t.Helper()
	if err := m.Worker.Destroy(t.Context(), ref); err != nil {
		t.Fatalf("destroy: %v", err)
	}
}

func (m *machine) inventory(t *testing.T) map[stacyvm.SandboxID]worker.Runtime {
	t.Helper()
	m.Ask(t.Context())
	inventory, err := m.Worker.Inventory(t.Context())
	if err != nil {
		t.Fatalf("inventory: %v", err)
	}
	lines := map[stacyvm.SandboxID]worker.Runtime{}
	for _, r := range inventory.Runtimes {
		lines[r.ID] = r
	}
	return lines
}

// nothing checks that no sandbox has left anything: no runtime, no image.
func (m *machine) nothing(t *testing.T) {
	t.Helper()
	if lines := m.inventory(t); len(lines) != 0 {
		t.Errorf("inventory: %+v", lines)
	}
	if held, _ := m.images.Holders(); len(held) != 0 {
		t.Errorf("held images: %q", held)
	}
}

func wantCode(t *testing.T, what string, err error, code stacyvm.Code) {
	t.Helper()
	if got := stacyvm.CodeOf(err); got != code {
		t.Errorf("%s: code %q, want %q (%v)", what, got, code, err)
	}
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

func write(t *testing.T, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}
