package member

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const box = stacyvm.SandboxID("sb-000000000000000000000001")

// TestRenewalsAndHeartbeats: an hour of a quiet life.
func TestRenewalsAndHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(box)
		p := launch(t, "one", 1, c.planes(1)...)
		<-p.Ready()
		for range 3600 {
			time.Sleep(time.Second)
			if err := p.Gate(); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.end(); err != nil {
			t.Error(err)
		}
		wantCode(t, "gate of an ended member", p.Gate(), stacyvm.CodeLeaseLost)
		for i, at := range c.renewals[1:] {
			if gap := at - c.renewals[i]; gap < 9*time.Second || gap > 11*time.Second {
				t.Errorf("renewal %d came %v after the one before", i+1, gap)
			}
		}
		if n := len(c.beats); n < 3600/33 || n > 3600/27+1 {
			t.Errorf("%d heartbeats in an hour", n)
		}
		if !c.beats[0].Register || c.beats[1].Register || c.beats[1].Status != stacyvm.WorkerOnline {
			t.Errorf("%+v", c.beats[:2])
		}
	})
}

// TestClosedBeforeTheFirstRenewal: a registered worker without a renewal does nothing.
func TestClosedBeforeTheFirstRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newCluster(box).planes(1)[0]
		a.set(absent)
		p := launch(t, "one", 1, a)
		time.Sleep(time.Hour)
		wantCode(t, "gate", p.Gate(), stacyvm.CodeLeaseLost)
		a.set(fine)
		<-p.Ready()
		if err := p.Gate(); err != nil {
			t.Error(err)
		}
		if err := p.end(); err != nil {
			t.Error(err)
		}
	})
}

// TestShownWhenItActs: nothing is placed on a worker that would refuse it. It is online for the
// others when its gate is open, and ready when it is online, whatever gets lost on the way.
func TestShownWhenItActs(t *testing.T) {
	for name, disturb := range map[string]func(*plane){
		"nothing is lost":   func(*plane) {},
		"answers take long": func(a *plane) { a.state.answer = 3 * time.Second },
		"the first renewals are lost": func(a *plane) {
			a.lose = func(c *cluster) bool { return len(c.beats) > 0 && time.Since(c.start) < 20*time.Second }
		},
		"the first shows are lost": func(a *plane) {
			a.lose = func(c *cluster) bool { return len(c.renewals) > 0 && time.Since(c.start) < 20*time.Second }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(box)
				a := c.planes(1)[0]
				disturb(a)
				var p *process
				placed := time.Duration(-1)
				a.heard = func() { // with what the control plane learns, creates are placed
					if c.worker.Status != stacyvm.WorkerOnline {
						return
					}
					if err := p.Gate(); err != nil {
						t.Errorf("online while it refuses: %v", err)
					}
					if placed < 0 {
						placed = time.Since(c.start)
					}
				}
				p = prepare(t, "one", 1, a)
				p.run(t)
				<-p.Ready()
				if status := c.status(); status != stacyvm.WorkerOnline {
					t.Errorf("ready while it is %s", status)
				}
				if placed < 0 || placed > 30*time.Second {
					t.Errorf("online after %v", placed)
				}
				if c.beats[0].Status != stacyvm.WorkerStarting {
					t.Errorf("registered as %s", c.beats[0].Status)
				}
				if err := p.end(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestWrongCredential: at the start it is told at once; later it may be a rotation that is under
// way.
func TestWrongCredential(t *testing.T) {
	for _, code := range []stacyvm.Code{stacyvm.CodeUnauthenticated, stacyvm.CodeForbidden} {
		synctest.Test(t, func(t *testing.T) {
			planes := newCluster(box).planes(2)
			for _, p := range planes {
				p.refuse(stacyvm.Errorf(code, "no"))
			}
			p := launch(t, "one", 1, planes...)
			wantCode(t, "start", <-p.done, code)

			planes[1].refuse(nil) // one that has the new key already
			p = launch(t, "two", 1, planes...)
			<-p.Ready()
			planes[1].refuse(stacyvm.Errorf(code, "no"))
			time.Sleep(time.Minute)
			wantCode(t, "gate", p.Gate(), stacyvm.CodeLeaseLost)
			planes[0].refuse(nil)
			time.Sleep(5 * time.Second)
			if err := p.Gate(); err != nil {
				t.Error(err)
			}
			if err := p.end(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAnotherProcess: whoever registers last is the worker; the earlier process ends by itself,
// soon, and cannot go on.
func TestAnotherProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(box)
		first := launch(t, "one", 1, c.planes(1)...)
		<-first.Ready()
		second := launch(t, "two", 1, c.planes(1)...)
		<-second.Ready()
		began := time.Now()
		wantCode(t, "the earlier process", <-first.done, stacyvm.CodeConflict)
		if late := time.Since(began); late > 11*time.Second {
			t.Errorf("it ended after %v", late)
		}
		wantCode(t, "its gate", first.Gate(), stacyvm.CodeLeaseLost)
		if err := first.Leave(t.Context()); err != nil || c.handed {
			t.Errorf("it gave away what is not its own: %v", err)
		}
		ref := stacyvm.Ref{ID: box, Fence: c.fence()}
		if err := errors.Join(second.Gate(), second.Confirm(t.Context(), ref)); err != nil {
			t.Error(err)
		}
		if err := second.end(); err != nil {
			t.Error(err)
		}
	})
}

// TestHandover: SIGTERM tells that the worker drains, keeps the leases for the next process, and
// the next one has them at once.
func TestHandover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(box)
		first := launch(t, "one", 1, c.planes(2)...)
		<-first.Ready()
		if err := first.Drain(t.Context()); err != nil || !first.Draining() || c.status() != stacyvm.WorkerDraining {
			t.Errorf("drain: %v, %v", err, c.status())
		}
		if err := first.Gate(); err != nil {
			t.Errorf("short calls cannot be finished: %v", err)
		}
		time.Sleep(35 * time.Second)
		if c.status() != stacyvm.WorkerDraining {
			t.Errorf("a heartbeat took the status back: %v", c.status())
		}
		if err := first.end(); err != nil {
			t.Error(err)
		}
		if err := first.Leave(t.Context()); err != nil || !c.handed {
			t.Error(err)
		}
		wantCode(t, "gate", first.Gate(), stacyvm.CodeLeaseLost)
		if left := c.takeover() - time.Since(c.start); left < 120*time.Second {
			t.Errorf("the next process has %v", left)
		}
		before := c.fence()
		second := launch(t, "two", 1, c.planes(2)...)
		<-second.Ready()
		if c.fence().Compare(before) <= 0 || c.status() != stacyvm.WorkerOnline {
			t.Errorf("after the restart: %v, %v", c.fence(), c.status())
		}
		if err := second.end(); err != nil {
			t.Error(err)
		}
	})
}

// TestNextControlPlane: one that is gone or silent costs nothing but a moment.
func TestNextControlPlane(t *testing.T) {
	for name, f := range map[string]fault{"absent": absent, "lost": lost} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(box)
				planes := c.planes(3)
				p := launch(t, "one", 1, planes...)
				<-p.Ready()
				for dead := range 3 {
					for i, plane := range planes {
						plane.set(fine)
						if i != (dead+2)%3 {
							plane.set(f)
						}
					}
					for range 600 {
						time.Sleep(time.Second)
						if err := p.Gate(); err != nil {
							t.Fatalf("with one of three: %v", err)
						}
					}
				}
				if err := p.end(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestForgotten: a worker that an operator deleted is registered anew, and keeps its sandboxes.
func TestForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(box)
		p := launch(t, "one", 1, c.planes(1)...)
		<-p.Ready()
		c.mu.Lock()
		c.session = ""
		c.mu.Unlock()
		for range 60 {
			time.Sleep(time.Second)
			if err := p.Gate(); err != nil {
				t.Fatal(err)
			}
		}
		if c.session != "one" {
			t.Errorf("registered: %q", c.session)
		}
		if err := p.end(); err != nil {
			t.Error(err)
		}
	})
}

// TestNoEngineWorks: a worker with nothing to offer says that it is not well, since an empty list
// of engines reads as all.
func TestNoEngineWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		var planes []ControlPlane
		for _, p := range c.planes(1) {
			planes = append(planes, p)
		}
		m, err := New(Config{Planes: planes, Offer: func(context.Context) (Offer, error) { return Offer{}, nil }})
		if err != nil {
			t.Fatal(err)
		}
		worker, err := m.Once(t.Context())
		if err != nil || worker.Status != stacyvm.WorkerUnhealthy || c.session != "" {
			t.Errorf("%+v, %v; session %q", worker, err, c.session)
		}
	})
	if _, err := New(Config{}); stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
		t.Error(err)
	}
}

func TestConfirm(t *testing.T) {
	at := func(epoch int64) stacyvm.Ref {
		return stacyvm.Ref{ID: box, Fence: stacyvm.Fence{Incarnation: 1, Epoch: epoch}}
	}
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(box)
		a := c.planes(1)[0]
		p := launch(t, "one", 1, a)
		<-p.Ready()
		defer p.end()
		fence := c.fence().Epoch
		confirm := func(what string, ref stacyvm.Ref, code stacyvm.Code, questions int) {
			t.Helper()
			before := c.asked
			wantCode(t, what, p.Confirm(t.Context(), ref), code)
			if c.asked-before != questions {
				t.Errorf("%s: %d questions, want %d", what, c.asked-before, questions)
			}
		}
		confirm("one that a renewal told of", at(fence), "", 0)
		confirm("an older one", at(fence-1), stacyvm.CodeStaleEpoch, 0)
		confirm("one that nobody gave out", at(fence+1), stacyvm.CodeConflict, 1)
		confirm("the owner's afterwards", at(fence), "", 0)
		c.give(at(fence + 2))
		confirm("a newer one", at(fence+2), "", 1)
		confirm("a newer one again", at(fence+2), "", 0)
		confirm("the one before", at(fence+1), stacyvm.CodeStaleEpoch, 0)
		other := stacyvm.Ref{ID: "sb-000000000000000000000002", Fence: at(1).Fence}
		confirm("another's sandbox", other, stacyvm.CodeNotFound, 1)
		p.config.Confirmed = func(asked stacyvm.Ref) bool { return asked == other || asked == at(fence) }
		confirm("what the machine knows of one that it does not hold", other, "", 0)
		confirm("what the machine knows of one that it holds", at(fence), stacyvm.CodeStaleEpoch, 0)
		p.config.Confirmed = nil
		a.set(absent)
		confirm("without an answer", other, stacyvm.CodeUnavailable, 0)
		a.set(fine)

		c.mu.Lock()
		delete(c.fences, box)
		c.mu.Unlock()
		time.Sleep(12 * time.Second)
		confirm("one that was given away", at(fence+2), stacyvm.CodeNotFound, 1)
	})
}

// TestConfirmDuringRenewal: the answer of a renewal is older than what was confirmed while it was
// under way.
func TestConfirmDuringRenewal(t *testing.T) {
	var f fences
	old, young := stacyvm.Fence{Epoch: 1}, stacyvm.Fence{Epoch: 2}
	round := f.begin()
	f.note(f.present(), box, young)
	f.learn(round, map[stacyvm.SandboxID]stacyvm.Fence{box: old})
	if got, _ := f.of(box); got != young {
		t.Errorf("%v", got)
	}
	f.learn(f.begin(), nil)
	if _, known := f.of(box); known {
		t.Error("what no renewal tells of any more is still known")
	}
}

// TestEndBeforeTheStart: a worker that no control plane has seen tells nobody of its end.
func TestEndBeforeTheStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(box)
		a := c.planes(1)[0]
		a.set(absent)
		p := launch(t, "one", 1, a)
		time.Sleep(11 * time.Second)
		a.set(fine)
		if err := errors.Join(p.Drain(t.Context()), p.end(), p.Leave(t.Context())); err != nil {
			t.Error(err)
		}
		if len(c.beats) != 0 || c.session != "" || c.handed {
			t.Errorf("it told %+v", c.beats)
		}
	})
}

// TestTell: what changes on the machine is told at once, by a member that acts.
func TestTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(box)
		p := prepare(t, "one", 1, c.planes(1)...)
		if err := p.Tell(t.Context()); err != nil || len(c.beats) != 0 {
			t.Errorf("before it acts: %v, %d heartbeats", err, len(c.beats))
		}
		p.run(t)
		<-p.Ready()
		before, began := len(c.beats), time.Now()
		if err := p.Tell(t.Context()); err != nil || len(c.beats) != before+1 || c.beats[before].Register || time.Since(began) > time.Second {
			t.Errorf("%v, %d heartbeats after %d", err, len(c.beats), before)
		}
		if err := p.end(); err != nil {
			t.Error(err)
		}
	})
}
