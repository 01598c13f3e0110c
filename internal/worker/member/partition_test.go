package member

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// step is how finely these tests look at the gate.
const step = 50 * time.Millisecond

// lastOpen watches the gate for a while and gives when it was last seen open, in real time since
// the start.
func (p *process) lastOpen(c *cluster, during time.Duration) (last time.Duration) {
	for end := time.Now().Add(during); time.Now().Before(end); time.Sleep(step) {
		if p.Gate() == nil {
			last = time.Since(c.start)
		}
	}
	return last
}

// TestPartition: a worker that is cut off, at every moment between renewals and in every way, has
// stopped 10 s before anybody can take its sandboxes over. With clocks of different rates, up to
// 1.5, it has still stopped before.
func TestPartition(t *testing.T) {
	testneed.Patience(t)
	for _, rates := range []struct{ worker, database float64 }{{1, 1}, {0.8, 1}, {1.2, 1}, {1, 0.8}, {1, 1.2}, {0.8, 1.2}, {1.2, 0.8}, {1 / 1.5, 1}, {1, 1.5}} {
		for name, cut := range map[string]fault{"nothing arrives": lost, "answers are lost": mute, "nobody listens": absent} {
			t.Run(fmt.Sprintf("%s, worker %.2f, database %.2f", name, rates.worker, rates.database), func(t *testing.T) {
				for after := time.Duration(0); after < 12*time.Second; after += 500 * time.Millisecond {
					synctest.Test(t, func(t *testing.T) { partition(t, cut, after, rates.worker, rates.database) })
				}
			})
		}
	}
}

func partition(t *testing.T, cut fault, after time.Duration, worker, database float64) {
	c := newCluster(box)
	c.rate = database
	a := c.planes(1)[0]
	p := launch(t, "one", worker, a)
	<-p.Ready()
	time.Sleep(30*time.Second + after)
	a.set(cut)
	if cut == mute { // renewals go on arriving; the worker stops all the same
		if last := p.lastOpen(c, 2*time.Minute) - (30*time.Second + after); last > time.Duration(float64(StopAfter+time.Second)/worker) {
			t.Errorf("open %v after its last answer", last)
		}
		a.set(lost)
	}
	last := p.lastOpen(c, 2*time.Minute)
	gap := c.takeover() - last
	if last == 0 {
		gap = c.takeover() // closed all the time
	}
	switch {
	case worker == 1 && database == 1 && gap < 10*time.Second:
		t.Errorf("cut after %v: stopped %v before the takeover", after, gap)
	case gap <= 0:
		t.Errorf("cut after %v: stopped %v after the takeover", after, -gap)
	}
	a.set(fine)
	time.Sleep(time.Duration(float64(10*time.Second) / worker))
	if err := p.Gate(); err != nil {
		t.Errorf("after healing: %v", err)
	}
	if err := p.end(); err != nil {
		t.Error(err)
	}
}

// TestSlowAnswers: what counts is when a renewal was sent; with answers that take 4.9 s the gate
// never closes, and a cut is as safe as with quick ones.
func TestSlowAnswers(t *testing.T) {
	for _, slow := range []struct{ there, back time.Duration }{{4900 * time.Millisecond, 0}, {0, 4900 * time.Millisecond}, {2 * time.Second, 2 * time.Second}} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(box)
			a := c.planes(1)[0]
			a.state.slow, a.state.answer = slow.there, slow.back
			p := launch(t, "one", 1, a)
			<-p.Ready()
			for range 600 {
				time.Sleep(time.Second)
				if err := p.Gate(); err != nil {
					t.Fatalf("%+v: %v", slow, err)
				}
			}
			a.set(lost)
			last := p.lastOpen(c, time.Minute) // a renewal that is under way still arrives
			if gap := c.takeover() - last; gap < 10*time.Second {
				t.Errorf("%+v: stopped %v before the takeover", slow, gap)
			}
			if err := p.end(); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestFlakyNetwork: whatever happens to two control planes, the gate is never open within 10 s of
// a takeover.
func TestFlakyNetwork(t *testing.T) {
	for seed := range uint64(200) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 1))
			c := newCluster(box)
			planes := c.planes(2)
			p := launch(t, "one", 1, planes...)
			<-p.Ready()
			for range 60 {
				for _, plane := range planes {
					plane.state.Lock()
					plane.state.fault = fault(random.IntN(4))
					plane.state.slow, plane.state.answer = upTo(random, 7*time.Second), upTo(random, 7*time.Second)
					plane.state.Unlock()
				}
				for quiet := upTo(random, 40*time.Second); quiet > 0; quiet -= 10 * step {
					time.Sleep(10 * step)
					if gap := c.takeover() - time.Since(c.start); p.Gate() == nil && gap < 10*time.Second {
						t.Fatalf("seed %d: open %v before a takeover", seed, gap)
					}
				}
			}
			if err := p.end(); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		})
	}
}

func upTo(random *rand.Rand, most time.Duration) time.Duration {
	return time.Duration(random.Int64N(int64(most)))
}

// TestGate: closed before the first renewal, from StopAfter on, and for good.
func TestGate(t *testing.T) {
	var g gate
	wantCode(t, "at first", g.check(0), stacyvm.CodeLeaseLost)
	g.extend(time.Second)
	wantCode(t, "open", g.check(time.Second+StopAfter-1), "")
	wantCode(t, "too late", g.check(time.Second+StopAfter), stacyvm.CodeLeaseLost)
	g.extend(time.Minute)
	wantCode(t, "open again", g.check(time.Minute), "")
	g.shut(errLeft)
	g.extend(time.Minute)
	wantCode(t, "ended", g.check(time.Minute), stacyvm.CodeLeaseLost)
	if g.fenced() {
		t.Error("an end counts as another process")
	}
	g.fence()
	if wantCode(t, "fenced", g.check(time.Minute), stacyvm.CodeLeaseLost); !g.fenced() {
		t.Error("not fenced")
	}
	if a, b := bootTime(), bootTime(); b < a || a <= 0 {
		t.Errorf("boot time went from %v to %v", a, b)
	}
}
