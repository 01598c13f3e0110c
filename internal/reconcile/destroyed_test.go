package reconcile

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/testneed"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// What can go wrong with one step, which is one transaction or one call to the worker.
const (
	refused    = "refused"    // nothing takes place
	undone     = "undone"     // it fails at its end
	unanswered = "unanswered" // it takes place, and nobody learns of that
	left       = "left"       // the caller leaves when it begins
)

// steps counts steps, and has one of them go wrong.
type steps struct {
	store.Store

	mu    sync.Mutex
	count int
	at    int    // the step that goes wrong; 0: none
	fault string // how
	leave context.CancelFunc
}

func (s *steps) plan(at int, fault string, leave context.CancelFunc) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count, s.at, s.fault, s.leave = 0, at, fault, leave
}

// reached tells whether the step that is to go wrong has begun.
func (s *steps) reached() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count >= s.at
}

// step does one step; do is told whether to fail at its end.
func (s *steps) step(do func(fail bool) error) error {
	s.mu.Lock()
	s.count++
	fault := ""
	if s.count == s.at {
		if fault = s.fault; fault == left {
			s.leave()
		}
	}
	s.mu.Unlock()
	switch fault {
	case refused:
		return errBroken
	case unanswered:
		return errors.Join(errBroken, do(false))
	}
	return do(fault == undone)
}

// Update implements store.Store.
func (s *steps) Update(ctx context.Context, write func(store.Tx) error) error {
	return s.step(func(fail bool) error {
		return s.Store.Update(ctx, func(tx store.Tx) error {
			if err := write(tx); err != nil || !fail {
				return err
			}
			return errBroken
		})
	})
}

// View implements store.Store.
func (s *steps) View(ctx context.Context, read func(store.Tx) error) error {
	return s.step(func(fail bool) error {
		if err := s.Store.View(ctx, read); err != nil || !fail {
			return err
		}
		return errBroken
	})
}

// remote is the machine, each call a step.
type remote struct {
	worker.Worker
	steps *steps
}

// Create implements worker.Worker.
func (r remote) Create(ctx context.Context, ref stacyvm.Ref, request worker.CreateRequest) (created worker.Created, err error) {
	err = r.steps.step(func(bool) error { created, err = r.Worker.Create(ctx, ref, request); return err })
	return created, err
}

// Destroy implements worker.Worker.
func (r remote) Destroy(ctx context.Context, ref stacyvm.Ref) error {
	return r.steps.step(func(bool) error { return r.Worker.Destroy(ctx, ref) })
}

// Inventory implements worker.Worker.
func (r remote) Inventory(ctx context.Context) (inventory worker.Inventory, err error) {
	err = r.steps.step(func(bool) error { inventory, err = r.Worker.Inventory(ctx); return err })
	return inventory, err
}

// ending is one way in which a row becomes destroyed.
type ending struct {
	*cluster
	steps   *steps
	service *control.Service
	plane   *Reconciler
}

func newEnding(c *cluster) *ending {
	e := &ending{cluster: c, steps: &steps{Store: c.store}}
	at := func(id stacyvm.WorkerID) (worker.Worker, error) {
		if id != far {
			return nil, errBroken
		}
		return remote{c.machine, e.steps}, nil
	}
	e.service = controltest.NewService(c.T, e.steps, nil, func(config *control.Config) {
		config.Self, config.Workers, config.AuditSync = "a", at, true
	})
	e.plane = New(Config{Store: e.steps, Self: "a", Session: "a-1", Workers: at})
	c.must(e.plane.Keep(c.Context()))
	return e
}

func (e *ending) caller(ctx context.Context) context.Context { return controltest.As(ctx, "ann", "") }

// want is what the user says of a sandbox that exists.
func (e *ending) want(id stacyvm.SandboxID) {
	e.Helper()
	e.update(func(ctx context.Context, tx store.Tx) error {
		_, err := tx.Sandboxes().Want(ctx, id, store.Wish{Desired: stacyvm.DesiredDestroyed})
		return err
	})
}

// visit compares the worker's rows with what it has.
func (e *ending) visit(ctx context.Context) error { return e.plane.holding(recovery(far)).visit(ctx) }

func (e *ending) reap(ctx context.Context) error {
	var reaping sync.WaitGroup
	err := e.plane.reap(ctx, reaping.Go)
	reaping.Wait()
	return err
}

// told counts what subscribers are told of the end of a sandbox, and its audit lines by action.
func (e *ending) told(id stacyvm.SandboxID) (ends int, audited map[string]int) {
	e.Helper()
	audited = map[string]int{}
	for more := true; more; {
		e.must(e.store.Update(e.Context(), func(tx store.Tx) (err error) { more, err = tx.Events().Number(e.Context()); return err }))
	}
	e.must(e.store.View(e.Context(), func(tx store.Tx) error {
		events, err := tx.Events().List(e.Context(), store.EventFilter{Limit: 100_000})
		if err != nil {
			return err
		}
		for _, n := range events {
			if n.SandboxID == id && n.Kind == stacyvm.KindSandboxDestroyed {
				ends++
			}
		}
		lines, err := tx.Audit().Operations(e.Context(), store.OperationFilter{Sandbox: id, Limit: 1000})
		for _, line := range lines {
			audited[line.Action+" "+line.Status]++
		}
		return err
	}))
	return ends, audited
}

// settle lets the reconciliation do what is left to do.
func (e *ending) settle(id stacyvm.SandboxID) {
	e.Helper()
	e.steps.plan(0, "", nil)
	for range 4 {
		e.advance(time.Minute)
		e.beat()
		e.work(e.plane)
		if controltest.Row(e.T, e.store, id).State == stacyvm.StateDestroyed {
			return
		}
	}
	e.Errorf("%s is never destroyed: %+v", id, controltest.Row(e.T, e.store, id))
}

// TestEveryEndIsTold: however a sandbox comes to its end, and whatever goes wrong at whichever
// step of that, subscribers are told of the end once, and the audit has who asked for it.
func TestEveryEndIsTold(t *testing.T) {
	testneed.Patience(t)
	type way struct {
		// begin makes the sandbox; "": act does.
		begin func(*ending) stacyvm.SandboxID
		act   func(*ending, context.Context, stacyvm.SandboxID) (stacyvm.SandboxID, error)
		audit string // that must be there in the end; "": none
	}
	running := func(e *ending) stacyvm.SandboxID { return e.sandbox(24*time.Hour, stacyvm.StateRunning).ID }
	ways := map[string]way{
		"a client asks for it": {running, func(e *ending, ctx context.Context, id stacyvm.SandboxID) (stacyvm.SandboxID, error) {
			return id, e.service.Destroy(e.caller(ctx), id)
		}, "sandbox.destroy ok"},
		"it was asked for before": {func(e *ending) stacyvm.SandboxID { id := running(e); e.want(id); return id },
			func(e *ending, ctx context.Context, id stacyvm.SandboxID) (stacyvm.SandboxID, error) {
				return id, e.visit(ctx)
			}, ""},
		"its time is over": {func(e *ending) stacyvm.SandboxID {
			id := e.sandbox(time.Second, stacyvm.StateRunning).ID
			e.advance(2 * time.Second)
			return id
		}, func(e *ending, ctx context.Context, id stacyvm.SandboxID) (stacyvm.SandboxID, error) {
			return id, e.reap(ctx)
		}, "sandbox.expire ok"},
		"its create fails": {nil, func(e *ending, ctx context.Context, _ stacyvm.SandboxID) (id stacyvm.SandboxID, err error) {
			e.machine.BeforeCreate = func(_ context.Context, ref stacyvm.Ref) error { id = ref.ID; return errBroken }
			defer func() { e.machine.BeforeCreate = nil }()
			_, _, err = e.service.Create(e.caller(ctx), control.CreateRequest{}, control.Idempotency{})
			return id, err
		}, "sandbox.spawn ok"},
		"its create was given up": {func(e *ending) stacyvm.SandboxID {
			id := e.creating()
			e.advance(stacyvm.CreateAbandonedAfter + time.Second)
			e.beat()
			return id
		}, func(e *ending, ctx context.Context, id stacyvm.SandboxID) (stacyvm.SandboxID, error) {
			return id, e.visit(ctx)
		}, ""},
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			onEachDriver(t, func(c *cluster) {
				e := newEnding(c)
				for _, fault := range []string{refused, undone, unanswered, left} {
					at := 1
					for ; ; at++ {
						var id stacyvm.SandboxID
						if way.begin != nil {
							id = way.begin(e)
						}
						ctx, leave := context.WithCancel(t.Context())
						e.steps.plan(at, fault, leave)
						id, err := way.act(e, ctx, id)
						leave()
						went := e.steps.reached()
						e.steps.plan(0, "", nil)
						if id == "" { // the create did not come to its row
							continue
						}
						if err != nil && controltest.Row(t, c.store, id).Desired != stacyvm.DesiredDestroyed {
							_, _ = way.act(e, t.Context(), id) // who got an error asks again
						}
						e.settle(id)
						ends, audited := e.told(id)
						if ends != 1 || way.audit != "" && audited[way.audit] == 0 {
							t.Errorf("step %d %s (%v): its end was told %d times, audit %v", at, fault, err, ends, audited)
						}
						if !went {
							break
						}
					}
					if at < 3 {
						t.Errorf("%s: there were %d steps", fault, at-1)
					}
				}
			})
		})
	}
}

// creating writes the row of a create, under which nothing is on the machine.
func (c *cluster) creating() stacyvm.SandboxID {
	c.Helper()
	row := stacyvm.Sandbox{
		ID: stacyvm.NewSandboxID(), State: stacyvm.StateCreating, Desired: stacyvm.DesiredRunning, Provider: "mock", Image: "host",
		Spec: stacyvm.Spec{Provider: "mock", Image: "host", TTL: 24 * time.Hour}, WorkerID: far, Fence: stacyvm.Fence{Incarnation: c.identity.Incarnation},
	}
	c.update(func(ctx context.Context, tx store.Tx) error {
		_, err := tx.Sandboxes().InsertHeld(ctx, c.session, stacyvm.LeaseTTL, row)
		return err
	})
	return row.ID
}

// TestManyWhoEndOne: clients, the reaper and a visit that meet at one sandbox end it once.
func TestManyWhoEndOne(t *testing.T) {
	onEachDriver(t, func(c *cluster) {
		e := newEnding(c)
		for round := range 20 {
			id := e.sandbox(time.Second, stacyvm.StateRunning).ID
			e.advance(2 * time.Second)
			e.beat()
			var all sync.WaitGroup
			for i := range 4 {
				all.Go(func() {
					switch i {
					case 0:
						_ = e.reap(t.Context())
					case 1:
						_ = e.visit(t.Context())
					default:
						if err := e.service.Destroy(e.caller(t.Context()), id); err != nil && stacyvm.CodeOf(err) != stacyvm.CodeNotFound && stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
							t.Error(err)
						}
					}
				})
			}
			all.Wait()
			e.settle(id)
			if ends, audited := e.told(id); ends != 1 || audited["sandbox.destroy ok"]+audited["sandbox.expire ok"] == 0 {
				t.Errorf("round %d: its end was told %d times, audit %v", round, ends, fmt.Sprint(audited))
			}
		}
	})
}
