package oom

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

const (
	memory   = 256 << 20
	overhead = 64 << 20
)

// fakeGuest is a guest whose processes' memory comes back some time after their end.
type fakeGuest struct {
	t         *testing.T
	processes []*fakeProcess
	files     int64                           // in file systems in memory: nobody's
	sentry    int64                           // what the sentry uses itself
	garbage   int64                           // of that, until it collects
	grows     func(since time.Duration) int64 // more of the sentry's own; nil: nothing
	began     time.Time
	beyond    int // calls of Beyond
	shrunk    int
	evicted   int
	stopped   map[any]bool
	ended     []any
}

type fakeProcess struct {
	Process
	exit  time.Duration // from its kill to its exit
	back  time.Duration // from its exit to the return of its memory
	dying time.Time     // zero: it lives
}

func process(name string, bytes int64) *fakeProcess {
	return &fakeProcess{Process: Process{ID: name, Memory: name, Bytes: bytes}}
}

func (p *fakeProcess) exited() bool {
	return !p.dying.IsZero() && time.Since(p.dying) >= p.exit
}

func (p *fakeProcess) returned() bool {
	return p.exited() && time.Since(p.dying) >= p.exit+p.back
}

func newGuest(t *testing.T, processes ...*fakeProcess) *fakeGuest {
	return &fakeGuest{t: t, processes: processes, began: time.Now(), stopped: map[any]bool{}}
}

func (f *fakeGuest) Memory() int64 {
	used := f.files
	seen := map[any]bool{}
	for _, p := range f.processes {
		if !p.returned() && !seen[p.Memory] {
			seen[p.Memory] = true
			used += p.Bytes
		}
	}
	return used
}

func (f *fakeGuest) Beyond(limit int64) int64 {
	f.beyond++
	used := f.Memory() + f.sentry + f.garbage
	if f.grows != nil {
		used += f.grows(time.Since(f.began))
	}
	return used - limit
}

func (f *fakeGuest) Grown() bool          { return f.Memory() > memory/2 }
func (f *fakeGuest) Wait(d time.Duration) { time.Sleep(max(d, shortestLook)) }
func (f *fakeGuest) Evict()               { f.evicted++ }

func (f *fakeGuest) Shrink() {
	f.shrunk++
	f.garbage = 0
}

func (f *fakeGuest) Processes() (list []Process) {
	for _, p := range f.processes {
		if !p.exited() {
			entry := p.Process
			entry.Dying = !p.dying.IsZero()
			list = append(list, entry)
		}
	}
	return list
}

func (f *fakeGuest) find(id any) *fakeProcess {
	return f.processes[slices.IndexFunc(f.processes, func(p *fakeProcess) bool { return p.ID == id })]
}

func (f *fakeGuest) Stop(p Process)        { f.stopped[p.ID] = true }
func (f *fakeGuest) Resume(p Process)      { delete(f.stopped, p.ID) }
func (f *fakeGuest) ResumeAll()            { clear(f.stopped) }
func (f *fakeGuest) Exited(p Process) bool { return f.find(p.ID).exited() }
func (f *fakeGuest) End(p Process, _ int64) {
	f.ended = append(f.ended, p.ID)
	f.find(p.ID).dying = time.Now()
}

// TestRelieve says who is ended, and how long the others stand still for it.
func TestRelieve(t *testing.T) {
	const large, middling, small = 200 << 20, 40 << 20, 1 << 20
	sharing := process("sharing", large)
	sharing.Memory = "large"
	slow := func(p *fakeProcess, exit, back time.Duration) *fakeProcess {
		p.exit, p.back = exit, back
		return p
	}
	crowd := func(n int, bytes int64) (list []*fakeProcess) {
		for i := range n {
			p := process("", bytes)
			p.ID, p.Memory = i, i
			list = append(list, p)
		}
		return list
	}
	for _, test := range []struct {
		name      string
		processes []*fakeProcess
		change    func(*fakeGuest)
		ended     []any
		within    time.Duration
	}{
		{"there is room", []*fakeProcess{process("a", large), process("b", middling)}, nil, nil, 0},
		{"the largest", []*fakeProcess{process("a", middling), process("b", large), process("c", middling)}, nil, []any{"b"}, time.Millisecond},
		{"all that share the largest memory", []*fakeProcess{process("large", large), sharing, process("c", 2*middling)}, nil,
			[]any{"large", "sharing"}, time.Millisecond},
		{"it comes back late, and nobody else is ended", []*fakeProcess{slow(process("a", 2*large), time.Second, 1900*time.Millisecond), process("b", small)}, nil,
			[]any{"a"}, 3 * time.Second},
		{"it takes long to end", []*fakeProcess{slow(process("a", 2*large), exitTime-100*time.Millisecond, 0), process("b", small)}, nil, []any{"a"}, exitTime},
		{"it does not end, and the next one is", []*fakeProcess{slow(process("a", large), time.Hour, 0), process("b", middling), process("c", middling)}, nil,
			[]any{"a", "b"}, exitTime + 100*time.Millisecond},
		{"those that live hold too much, too", []*fakeProcess{slow(process("a", large), 0, time.Second), process("b", large), process("c", large)}, nil,
			[]any{"a", "b"}, 1100 * time.Millisecond},
		{"garbage of the sentry's", []*fakeProcess{process("a", small)}, func(f *fakeGuest) { f.sentry, f.garbage = overhead, memory }, nil, 0},
		{"garbage that the process kept", []*fakeProcess{process("a", large), process("b", small)},
			func(f *fakeGuest) {
				f.files = middling
				f.grows = func(time.Duration) int64 { return overhead + f.left("a", large) }
			}, []any{"a"}, 500 * time.Millisecond},
		{"what is dying is waited for", []*fakeProcess{slow(process("dying", large), time.Second, 0), process("b", large)},
			func(f *fakeGuest) { f.find("dying").dying = time.Now() }, nil, time.Second + settledTime},
		{"what is dying does not end", []*fakeProcess{slow(process("dying", middling), time.Hour, 0), process("a", large), process("b", middling)},
			func(f *fakeGuest) { f.find("dying").dying = time.Now() }, []any{"a"}, exitTime + 2*settledTime},
		{"nobody's files", append(crowd(100, small), process("a", middling)), func(f *fakeGuest) { f.files = 2 * memory }, nil, 10 * time.Second},
		{"nobody is there", nil, func(f *fakeGuest) { f.files = 2 * memory }, nil, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newGuest(t, test.processes...)
				if test.change != nil {
					test.change(f)
				}
				g := New(f, memory, overhead)
				began := time.Now()
				g.relieve()
				if took := time.Since(began); took > test.within {
					t.Errorf("it took %v, and at most %v is right", took, test.within)
				}
				if test.name == "nobody's files" {
					if len(f.ended) != len(f.processes) || f.ended[0] != "a" {
						t.Errorf("ended: %v", f.ended)
					}
				} else if !slices.Equal(f.ended, test.ended) {
					t.Errorf("ended: %v", f.ended)
				}
				if len(f.stopped) > 0 || g.relieving.Load() {
					t.Errorf("still stopped: %v", f.stopped)
				}
			})
		})
	}
}

// left is what the sentry keeps for a process until it has ended and the garbage is collected.
func (f *fakeGuest) left(id any, bytes int64) int64 {
	if f.find(id).exited() && f.shrunk > 1 {
		return 0
	}
	return bytes
}

// TestStep: a guard looks the more often the less is left, sleeps while little is used, and does
// not spin when nobody can be ended.
func TestStep(t *testing.T) {
	for _, test := range []struct {
		name   string
		used   int64
		passes time.Duration
	}{
		{"little is used", memory / 4, shortestLook}, // the fake's wait without end
		{"half is left", memory/2 + 1, memory / 2 * time.Second / fillRate},
		{"nothing is left", memory, shortestLook},
		{"too much, and nobody can be ended", 2 * memory, longestLook + shortestLook},
	} {
		synctest.Test(t, func(t *testing.T) {
			f := newGuest(t)
			f.files = test.used
			began := time.Now()
			New(f, memory, overhead).step()
			if took := time.Since(began); took < test.passes-shortestLook || took > test.passes+shortestLook {
				t.Errorf("%s: %v, want %v", test.name, took, test.passes)
			}
			if wants := test.used > memory*7/8; wants != (f.evicted > 0) {
				t.Errorf("%s: cached files were dropped %d times", test.name, f.evicted)
			}
		})
	}
}

func TestRoom(t *testing.T) {
	for _, test := range []struct {
		name      string
		limit     int64
		sentry    int64
		free      time.Duration // from when on there is room; 0: never
		relieves  time.Duration // until when the guard works
		interrupt time.Duration // 0: never
		want      Room
		within    time.Duration
	}{
		{"there is room", memory, 0, 0, 0, 0, Free, 0},
		{"no limit", 0, 1 << 40, 0, 0, 0, Free, 0},
		{"none", memory, memory + overhead, 0, 0, 0, Refused, roomTime + 2*roomLook},
		{"soon", memory, memory + overhead, 100 * time.Millisecond, 0, 0, Free, 100*time.Millisecond + 2*roomLook},
		{"while the guard works", memory, memory + overhead, 900 * time.Millisecond, time.Second, 0, Free, 900*time.Millisecond + 2*roomLook},
		{"after the guard has worked", memory, memory + overhead, 0, time.Second, 0, Refused, time.Second + roomTime + 2*roomLook},
		{"a signal", memory, memory + overhead, 0, time.Hour, 50 * time.Millisecond, Interrupted, 50*time.Millisecond + roomLook},
	} {
		synctest.Test(t, func(t *testing.T) {
			f, began := newGuest(t), time.Now()
			f.grows = func(since time.Duration) int64 {
				if test.free > 0 && since >= test.free {
					return 0
				}
				return test.sentry
			}
			g := New(f, test.limit, overhead)
			if test.relieves > 0 {
				g.relieving.Store(true)
				time.AfterFunc(test.relieves, func() { g.relieving.Store(false) })
			}
			got := g.Room(func(d time.Duration) bool {
				time.Sleep(d)
				return test.interrupt > 0 && time.Since(began) >= test.interrupt
			})
			if took := time.Since(began); got != test.want || took > test.within {
				t.Errorf("%s: %v after %v", test.name, got, took)
			}
		})
	}
}

// TestRoomAfterACollection: what an ended process left right after a collection is garbage, too, and
// refuses no new process.
func TestRoomAfterACollection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newGuest(t)
		g := New(f, memory, overhead)
		g.shrink(shrinkPause)
		time.Sleep(settledTime)
		f.garbage = memory + overhead
		room := g.Room(func(d time.Duration) bool {
			time.Sleep(d)
			return false
		})
		if room != Free || f.shrunk != 2 {
			t.Errorf("%v after %d collections", room, f.shrunk)
		}
	})
}

// TestRoomForMany: a fork bomb's processes, which all ask for room, do not make the kernel count
// for each of them.
func TestRoomForMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newGuest(t)
		f.sentry = memory + overhead
		g := New(f, memory, overhead)
		done := make(chan Room)
		const many = 500
		for range many {
			go func() {
				done <- g.Room(func(d time.Duration) bool {
					time.Sleep(d)
					return false
				})
			}()
		}
		for range many {
			if room := <-done; room != Refused {
				t.Error(room)
			}
		}
		if most := int(roomTime/roomLook) + 5; f.beyond > most || f.shrunk > 2 {
			t.Errorf("counted %d times, at most %d is right; collected %d times", f.beyond, most, f.shrunk)
		}
	})
}
