package local

import (
	"context"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/internal/engine"
	"github.com/stacyvm/stacyvm/internal/engine/mock"
	"github.com/stacyvm/stacyvm/internal/image"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/testneed"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// noImages gives every sandbox an empty root.
type noImages struct{}

func (noImages) Resolve(context.Context, string, string) (image.Root, error) {
	return image.Root{Dir: "/"}, nil
}
func (noImages) Release(string) error       { return nil }
func (noImages) Holders() ([]string, error) { return nil, nil }

// TestUnresponsiveGuestsHoldUpNobody: of 2,000 sandboxes half are mute. Every inventory is complete at
// once, also while no guest can be dialled at all; the mute ones are found and asked less and less
// often, and the others are asked again and again.
func TestUnresponsiveGuestsHoldUpNobody(t *testing.T) {
	testneed.Patience(t)
	const many = 2000
	e, err := mock.Open(mock.Config{Dir: filepath.Join(t.TempDir(), "mock")})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	dir := t.TempDir()
	open := func() *Worker {
		w, err := Open(Config{ID: "here", Dir: dir, Engines: []engine.Engine{e}, Images: noImages{}})
		if err != nil {
			t.Fatal(err)
		}
		w.pings.quick.within, w.pings.patient.within = 200*time.Millisecond, time.Second
		w.pings.every, w.pings.most = time.Second, time.Hour
		return w
	}
	w := open()
	mute := map[stacyvm.SandboxID]bool{}
	var making errgroup.Group
	making.SetLimit(16) // more at once take longer than a create may, on a busy machine
	for i := range many {
		ref := stacyvm.Ref{ID: stacyvm.NewSandboxID(), Fence: stacyvm.Fence{Incarnation: 1, Epoch: 1}}
		muted := i%2 == 0
		mute[ref.ID] = muted
		making.Go(func() error {
			_, err := w.Create(t.Context(), ref, worker.CreateRequest{Cluster: "ours", Spec: stacyvm.Spec{Provider: mock.Name}})
			if muted {
				e.Mute(ref.ID)
			}
			return err
		})
	}
	if err := making.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil { // the next one does not know whether anybody answers
		t.Fatal(err)
	}
	w = open()
	e.Inject(mock.Faults{Hang: true})
	if lines := inventoried(t, w); len(lines) != many {
		t.Fatalf("%d lines while no guest can be reached", len(lines))
	}
	e.Inject(mock.Faults{})
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { _ = w.Run(ctx) })
	defer func() { stop(); running.Wait(); _ = w.Close() }()

	met := waitFor(t, func() bool {
		for id, line := range inventoried(t, w) {
			if (line.Phase == worker.PhaseRunning) == mute[id] || mute[id] && line.Phase != worker.PhaseSilent {
				return false
			}
		}
		return true
	})
	waitFor(t, func() bool { // everybody who answers has been asked again since
		for id, line := range inventoried(t, w) {
			if !mute[id] && (line.Phase != worker.PhaseRunning || !line.CheckedAt.After(met)) {
				return false
			}
		}
		return true
	})
	for _, b := range w.all() {
		b.mu.Lock()
		h := b.health
		b.mu.Unlock()
		if pause := h.due.Sub(h.checked); mute[b.id] && pause != w.pings.every<<(h.misses-1) && !h.checked.After(met) {
			t.Errorf("after %d questions without an answer it is left alone for %s", h.misses, pause)
		}
	}
}

// TestGuestsAreAskedOneAfterTheOther: sandboxes that were created at the same moment are not asked at
// the same moment, and each is asked once in the time between two questions.
func TestGuestsAreAskedOneAfterTheOther(t *testing.T) {
	const many, parts = 2000, 20
	w := &Worker{opened: time.Now(), pings: usualPings}
	counts := make([]int, parts)
	for range many {
		id := stacyvm.NewSandboxID()
		first := w.answered(id)
		pause := first.due.Sub(first.answered)
		if pause <= 0 || pause > w.pings.every {
			t.Fatalf("%s is asked after %s", id, pause)
		}
		counts[min(parts-1, int(pause*parts/w.pings.every))]++
		later := &Worker{opened: w.opened.Add(-pause), pings: w.pings} // it answers at once when it is asked
		if again := later.answered(id); again.due.Sub(again.answered) < w.pings.every-time.Second {
			t.Fatalf("%s is asked again after %s", id, again.due.Sub(again.answered))
		}
	}
	if most := slices.Max(counts); most > 2*many/parts {
		t.Errorf("%d of %d are asked in one of %d parts of the time", most, many, parts)
	}
}

// inventoried gives an inventory, which must not take long.
func inventoried(t *testing.T, w *Worker) map[stacyvm.SandboxID]worker.Runtime {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	inventory, err := w.Inventory(ctx)
	if err != nil {
		t.Fatal(err)
	}
	lines := map[stacyvm.SandboxID]worker.Runtime{}
	for _, line := range inventory.Runtimes {
		lines[line.ID] = line
	}
	return lines
}

// waitFor returns when something has become so.
func waitFor(t *testing.T, met func() bool) time.Time {
	t.Helper()
	for end := time.Now().Add(5 * time.Minute); !met(); {
		if time.Now().After(end) {
			t.Fatal("waited in vain")
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
	return time.Now()
}
