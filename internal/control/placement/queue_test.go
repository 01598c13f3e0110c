package placement_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// newQueueRig is a rig whose worker has so many places, and whose creates wait up to 30 s for one,
// at most three of them.
func newQueueRig(t *testing.T, places int, change func(*control.Config)) *rig {
	t.Helper()
	r := &rig{controltest.NewRigOn(t, controltest.OpenSQLite(t), func(c *control.Config) {
		c.Defaults.SpawnQueue, c.Defaults.SpawnQueueTimeout, c.Defaults.MaxSpawnQueue = true, 30*time.Second, 3
		if change != nil {
			change(c)
		}
	})}
	r.offer(t, places)
	return r
}

// offer changes how many sandboxes the worker takes.
func (r *rig) offer(t *testing.T, places int) {
	t.Helper()
	controltest.Update(t, r.Store, func(tx store.Tx) error {
		_, err := tx.Workers().Save(t.Context(), stacyvm.Worker{
			ID: controltest.Self, Status: "online", Session: "session-1", Providers: []string{"mock"}, Capacity: stacyvm.Capacity{MaxSandboxes: places},
		})
		return err
	})
}

// outcome is what a create in the background came to.
type outcome struct {
	sandbox  stacyvm.Sandbox
	replayed bool
	err      error
	after    time.Duration
}

// begin starts a create and returns when it waits, or is answered. It is used in a bubble.
func (r *rig) begin(ctx context.Context, request control.CreateRequest, key control.Idempotency) <-chan outcome {
	answered := make(chan outcome, 1)
	began := time.Now()
	go func() {
		var o outcome
		o.sandbox, o.replayed, o.err = r.Create(ctx, request, key)
		o.after = time.Since(began)
		answered <- o
	}()
	synctest.Wait()
	return answered
}

// pending fails the test when a create was answered.
func pending(t *testing.T, answered <-chan outcome) {
	t.Helper()
	select {
	case o := <-answered:
		t.Fatalf("answered: %+v", o)
	default:
	}
}

// kinds lists what was told, in order, of these kinds.
func (r *rig) kinds(t *testing.T, of ...stacyvm.Kind) (kinds []stacyvm.Kind) {
	t.Helper()
	time.Sleep(time.Second) // what only passes through is told in batches
	err := r.Store.View(t.Context(), func(tx store.Tx) error {
		events, err := tx.Events().List(t.Context(), store.EventFilter{Limit: 1000})
		for _, n := range events {
			if slices.Contains(of, n.Kind) {
				kinds = append(kinds, n.Kind)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return kinds
}

func TestCreatesWaitInOrder(t *testing.T) { synctest.Test(t, createsWaitInOrder) }

func createsWaitInOrder(t *testing.T) {
	r := newQueueRig(t, 1, nil)
	last := r.MustCreate(t)
	var line []<-chan outcome
	for range 3 {
		line = append(line, r.begin(r.Ctx, control.CreateRequest{}, control.Idempotency{}))
	}
	full := <-r.begin(r.Ctx, control.CreateRequest{}, control.Idempotency{})
	if wantCode(t, full.err, stacyvm.CodeLimit); full.after != 0 {
		t.Errorf("a full line was waited for %s", full.after)
	}
	if a, err := r.Admit(r.Ctx, control.CreateRequest{}); err != nil || a.Allowed || a.Queueable {
		t.Errorf("a full line admits %+v, %v", a, err)
	}
	for i, answered := range line {
		for _, later := range line[i:] {
			pending(t, later)
		}
		wantCode(t, r.Destroy(r.Ctx, last.ID), "")
		o := <-answered
		if o.err != nil || o.sandbox.State != stacyvm.StateRunning {
			t.Fatalf("create %d: %+v", i, o)
		}
		last = o.sandbox
	}
	if a, err := r.Admit(r.Ctx, control.CreateRequest{}); err != nil || a.Allowed || !a.Queueable || a.Reason != "worker_unavailable" {
		t.Errorf("admission %+v, %v", a, err)
	}
	told := r.kinds(t, stacyvm.KindSpawnQueued, stacyvm.KindSpawnDequeued, stacyvm.KindSpawnTimeout)
	want := []stacyvm.Kind{stacyvm.KindSpawnQueued, stacyvm.KindSpawnDequeued}
	if len(told) != 6 || slices.Contains(told, stacyvm.KindSpawnTimeout) || told[0] != want[0] || told[5] != want[1] {
		t.Errorf("told %v", told)
	}
}

func TestWaitingEnds(t *testing.T) {
	t.Run("in time", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newQueueRig(t, 1, nil)
			r.MustCreate(t)
			o := <-r.begin(r.Ctx, control.CreateRequest{}, control.Idempotency{})
			if wantCode(t, o.err, stacyvm.CodeLimit); o.after != 30*time.Second {
				t.Errorf("after %s", o.after)
			}
			want := []stacyvm.Kind{stacyvm.KindSpawnQueued, stacyvm.KindSpawnTimeout}
			if told := r.kinds(t, stacyvm.KindSpawnQueued, stacyvm.KindSpawnDequeued, stacyvm.KindSpawnTimeout); !slices.Equal(told, want) {
				t.Errorf("told %v", told)
			}
		})
	})
	t.Run("with its client", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newQueueRig(t, 1, nil)
			first := r.MustCreate(t)
			leaving, leave := context.WithCancel(r.Ctx)
			left := r.begin(leaving, control.CreateRequest{}, control.Idempotency{})
			stays := r.begin(r.Ctx, control.CreateRequest{}, control.Idempotency{})
			leave()
			wantCode(t, (<-left).err, stacyvm.CodeUnavailable)
			wantCode(t, r.Destroy(r.Ctx, first.ID), "")
			wantCode(t, (<-stays).err, "")
			if creates, _, present := r.Machine.Counts(); creates != 2 || present != 1 {
				t.Errorf("%d made, %d there", creates, present)
			}
		})
	})
	t.Run("with the server", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			r := newQueueRig(t, 1, nil)
			r.MustCreate(t)
			waiting := r.begin(r.Ctx, control.CreateRequest{}, control.Idempotency{})
			r.Drain()
			r.Drain()
			if o := <-waiting; o.after != 0 {
				t.Errorf("sent away after %s", o.after)
			} else {
				wantCode(t, o.err, stacyvm.CodeUnavailable)
			}
			wantCode(t, (<-r.begin(r.Ctx, control.CreateRequest{}, control.Idempotency{})).err, stacyvm.CodeUnavailable)
			if a, err := r.Admit(r.Ctx, control.CreateRequest{}); err != nil || a.Queueable {
				t.Errorf("a server that stops admits %+v, %v", a, err)
			}
		})
	})
}

// TestWhoNeedNotWait has a full worker with somebody in the line, and creates that it does not
// concern.
func TestWhoNeedNotWait(t *testing.T) { synctest.Test(t, whoNeedNotWait) }

func whoNeedNotWait(t *testing.T) {
	r := newQueueRig(t, 3, func(c *control.Config) { c.Defaults.MaxSandboxesPerOwner = 1 })
	key := control.Idempotency{Key: "k", Route: "POST /sandboxes", BodyHash: "h"}
	mine, _, err := r.Create(r.Ctx, control.CreateRequest{}, key)
	if err != nil {
		t.Fatal(err)
	}
	second := r.begin(r.Ctx, control.CreateRequest{}, control.Idempotency{})
	pending(t, second) // ann has her one

	bob := <-r.begin(r.Ctx, control.CreateRequest{OwnerID: "bob"}, control.Idempotency{})
	if wantCode(t, bob.err, ""); bob.after != 0 {
		t.Errorf("another owner waited %s", bob.after)
	}
	again := <-r.begin(r.Ctx, control.CreateRequest{}, key)
	if wantCode(t, again.err, ""); !again.replayed || again.sandbox.ID != mine.ID || again.after > time.Second {
		t.Errorf("the repeated request: %+v", again)
	}
	for name, request := range map[string]control.CreateRequest{
		"over the longest life": {TTL: new(48 * time.Hour)},
		"on a worker that none": {Selector: map[string]string{"zone": "nowhere"}, OwnerID: "cid"},
	} {
		o := <-r.begin(r.Ctx, request, control.Idempotency{})
		if wantCode(t, o.err, stacyvm.CodeLimit); o.after > time.Second {
			t.Errorf("%s: waited %s", name, o.after)
		}
	}
	wantCode(t, r.Destroy(r.Ctx, mine.ID), "")
	wantCode(t, (<-second).err, "")
}

// TestRoomThatComesUntold finds a worker that offers more, of which no event tells.
func TestRoomThatComesUntold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, 1, nil)
		r.MustCreate(t)
		waiting := r.begin(r.Ctx, control.CreateRequest{}, control.Idempotency{})
		pending(t, waiting)
		r.offer(t, 2)
		if o := <-waiting; o.err != nil || o.after > 2*time.Second {
			t.Errorf("%+v", o)
		}
	})
}

// lateStore keeps the answer of the next update of ann's back.
type lateStore struct {
	store.Store
	mu   sync.Mutex
	next func()
}

func (s *lateStore) Update(ctx context.Context, write func(store.Tx) error) error {
	err := s.Store.Update(ctx, write)
	if err != nil || auth.From(ctx).Subject != "ann" {
		return err
	}
	s.mu.Lock()
	next := s.next
	s.next = nil
	s.mu.Unlock()
	if next != nil {
		next()
	}
	return nil
}

// TestWhoLeavesWithARow lets the client go in the moment in which its row is committed: the
// sandbox is made.
func TestWhoLeavesWithARow(t *testing.T) { synctest.Test(t, whoLeavesWithARow) }

func whoLeavesWithARow(t *testing.T) {
	var late *lateStore
	r := newQueueRig(t, 1, func(c *control.Config) {
		late = &lateStore{Store: c.Store}
		c.Store = late
	})
	first := r.MustCreate(t)
	leaving, leave := context.WithCancel(r.Ctx)
	defer leave()
	answered := r.begin(leaving, control.CreateRequest{}, control.Idempotency{})
	pending(t, answered)
	committed, goOn := make(chan struct{}), make(chan struct{})
	late.mu.Lock()
	late.next = func() { close(committed); <-goOn }
	late.mu.Unlock()
	wantCode(t, r.Destroy(controltest.As(t.Context(), "bob", ""), first.ID), "")
	<-committed
	leave()
	close(goOn)
	o := <-answered
	if wantCode(t, o.err, ""); o.sandbox.State != stacyvm.StateRunning {
		t.Errorf("%+v", o.sandbox)
	}
}

// TestManyShareFewPlaces has more clients than places; everybody gets one, and there are never
// more than there is room for.
func TestManyShareFewPlaces(t *testing.T) {
	const clients, places = 40, 4
	r := newQueueRig(t, places, func(c *control.Config) { c.Defaults.MaxSpawnQueue = 0 })
	var wait sync.WaitGroup
	for range clients {
		wait.Go(func() {
			sandbox, _, err := r.Create(r.Ctx, control.CreateRequest{}, control.Idempotency{})
			if err != nil {
				t.Error(err)
				return
			}
			if _, _, present := r.Machine.Counts(); present > places {
				t.Errorf("%d runtimes for %d places", present, places)
			}
			wantCode(t, r.Destroy(r.Ctx, sandbox.ID), "")
		})
	}
	wait.Wait()
	if creates, _, present := r.Machine.Counts(); creates != clients || present != 0 {
		t.Errorf("%d made, %d left", creates, present)
	}
}

// TestAFullLineSaysWhy: who has tried and finds no place to wait in is told both, in words for
// people.
func TestAFullLineSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newQueueRig(t, 1, func(c *control.Config) { c.Defaults.MaxSandboxesPerOwner, c.Defaults.MaxSpawnQueue = 1, 1 })
		first := <-r.begin(r.Ctx, control.CreateRequest{OwnerID: "ann"}, control.Idempotency{})
		wantCode(t, first.err, "")
		waiting := r.begin(r.Ctx, control.CreateRequest{OwnerID: "ann"}, control.Idempotency{})
		other := <-r.begin(r.Ctx, control.CreateRequest{OwnerID: "bob"}, control.Idempotency{})
		wantCode(t, other.err, stacyvm.CodeLimit)
		told, _ := errors.AsType[*stacyvm.Error](other.err)
		if strings.Contains(told.Message, string(stacyvm.CodeLimit)+": ") || !strings.Contains(told.Message, string(controltest.Self)) {
			t.Errorf("told %q", told.Message)
		}
		wantCode(t, (<-waiting).err, stacyvm.CodeLimit)
	})
}
