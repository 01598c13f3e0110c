package limits

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// fakeGroup is a group whose members want to use what is a function of time.
type fakeGroup struct {
	wanted  func() int64
	began   time.Time
	limit   int64
	mayKill bool
	poor    bool          // the machine has nothing to lend
	lag     time.Duration // how long it still looks full after a raise
	raised  time.Time
	lasts   time.Duration // until it is gone
	highest int64
	killing bool // the kernel was allowed to kill at some time
}

func (f *fakeGroup) setLimit(limit int64, _ bool) error {
	if limit < min(f.wanted(), f.limit) {
		return errors.New("below the use")
	}
	if limit > f.limit {
		f.raised = time.Now()
	}
	f.limit, f.highest = limit, max(f.highest, limit)
	return nil
}

func (f *fakeGroup) full() bool { return f.wanted() > f.limit || time.Since(f.raised) < f.lag }

func (f *fakeGroup) letKill(may bool) error {
	f.mayKill, f.killing = may, f.killing || may
	return nil
}

func (f *fakeGroup) wait(limit time.Duration) bool {
	left := f.lasts - time.Since(f.began)
	if limit > 0 && limit < left {
		time.Sleep(limit)
		return true
	}
	time.Sleep(left)
	return false
}

func (f *fakeGroup) spare() bool { return !f.poor }

// TestLend fills groups, empties them at some time, and looks at their limits afterwards.
func TestLend(t *testing.T) {
	const memory = 256 << 20
	const step = raiseStep
	hard := hardLimit(memory)
	for name, test := range map[string]struct {
		limit   int64         // before
		wanted  int64         // until it is empty
		empty   time.Duration // when
		poor    bool
		lasts   time.Duration
		highest int64 // of the limit
		killing bool
		want    int64 // the limit afterwards
	}{
		"never full":                      {hard, hard - 1, 0, false, time.Minute, hard, false, hard},
		"full for a moment":               {hard, hard + 1, 20 * time.Millisecond, false, time.Minute, hard + step, false, hard},
		"far beyond, for a moment":        {hard, hard + 2*step + 1, 20 * time.Millisecond, false, time.Minute, hard + 3*step, false, hard},
		"nothing to lend":                 {hard, hard + 1, 10 * time.Second, true, time.Minute, hard, true, hard},
		"full for long":                   {hard, hard + 40*step, time.Minute, false, 2 * time.Minute, hard + raises*step, true, hard},
		"raised by an earlier launcher":   {hard + 5*step, hard + 1, 10 * time.Second, false, time.Minute, hard + 5*step, false, hard},
		"left raised, and it is not full": {hard + 5*step, hard, 0, false, time.Minute, hard, false, hard},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := &fakeGroup{began: time.Now(), limit: test.limit, poor: test.poor, lasts: test.lasts, lag: time.Millisecond}
				f.wanted = func() int64 {
					if time.Since(f.began) >= test.empty {
						return 0
					}
					return test.wanted
				}
				lend(f, "sb", memory, t.Logf)
				if f.limit != test.want || f.mayKill {
					t.Errorf("the limit is %d, want %d; the kernel may kill: %v", f.limit, test.want, f.mayKill)
				}
				if f.highest > test.highest || f.killing != test.killing {
					t.Errorf("the limit was %d, want %d; the kernel could kill: %v, want %v", f.highest, test.highest, f.killing, test.killing)
				}
			})
		})
	}
}
