package retry

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// attempts goes on as long as the backoff says and gives the number of attempts and the time that
// they took.
func attempts(t *testing.T, b *Backoff) (n int, took time.Duration) {
	t.Helper()
	began := time.Now()
	for n = 1; !b.Over(); n++ {
		if err := b.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return n, time.Since(began)
}

func TestBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Backoff{Within: 10 * time.Second}
		n, took := attempts(t, &b)
		if n < 10 || n > 20 || took < b.Within || took > b.Within+MaxPause {
			t.Errorf("%d attempts in %s", n, took)
		}
		if !b.Over() {
			t.Error("it goes on after it gave up")
		}
		b.Reset()
		if again, tookAgain := attempts(t, &b); again != n || tookAgain != took {
			t.Errorf("after a success %d attempts in %s, before %d in %s", again, tookAgain, n, took)
		}
	})
}

func TestWaitEndsWithItsCaller(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if err := Sleep(ctx, time.Hour); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable || time.Since(began) != time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

// TestJitter: within a tenth, and not always the same.
func TestJitter(t *testing.T) {
	var all []time.Duration
	for range 1000 {
		all = append(all, Jitter(10*time.Second))
	}
	if low, high := slices.Min(all), slices.Max(all); low < 9*time.Second || high > 11*time.Second || high-low < time.Second {
		t.Errorf("from %v to %v", low, high)
	}
}

// TestSpreadPauses: each pause is below the longest that its attempt may wait, and they are not
// all the same.
func TestSpreadPauses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := Backoff{First: 2 * time.Millisecond, Max: 16 * time.Millisecond, Spread: true}
		seen := map[time.Duration]bool{}
		for _, longest := range []time.Duration{2, 4, 8, 16, 16, 16, 16, 16} {
			began := time.Now()
			if err := b.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			took := time.Since(began)
			if took >= longest*time.Millisecond {
				t.Errorf("a pause of %s, at most %dms", took, longest)
			}
			seen[took] = true
		}
		if len(seen) < 2 {
			t.Errorf("every pause took %v", seen)
		}
	})
}
