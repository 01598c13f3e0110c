package retry

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// attempts goes on as long as the backoff says and gives the number of attempts and the time that they took.
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
