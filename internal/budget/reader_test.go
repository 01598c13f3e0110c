package budget_test

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/budget"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// drip gives so many bytes each second.
type drip int

func (d drip) Read(p []byte) (int, error) {
	time.Sleep(time.Second)
	return min(len(p), int(d)), nil
}

func TestWhatIsReadIsCounted(t *testing.T) {
	account := budget.New(1 << 20).Open("me")
	text, err := io.ReadAll(budget.NewReader(iotest.HalfReader(bytes.NewReader(make([]byte, 100<<10))), account, 4))
	if err != nil || len(text) != 100<<10 {
		t.Errorf("%d bytes: %v", len(text), err)
	}
	if _, err := io.ReadAll(budget.NewReader(bytes.NewReader(make([]byte, 100<<10)), account, 4)); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
		t.Errorf("over the budget: %v", err)
	}
}

func TestADripIsCutOff(t *testing.T) {
	for pace, want := range map[drip]time.Duration{1: 61 * time.Second, 8 << 10: 69 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			_, err := io.Copy(io.Discard, budget.NewReader(pace, nil, 1))
			if took := time.Since(began); stacyvm.CodeOf(err) != stacyvm.CodeTimeout || took != want {
				t.Errorf("%d bytes a second: %v after %v", pace, err, took)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		enough := io.LimitReader(drip(64<<10), 32<<20)
		into := struct{ io.Writer }{io.Discard} // without a way of its own to read, in smaller pieces
		if n, err := io.CopyBuffer(into, budget.NewReader(enough, nil, 1), make([]byte, 64<<10)); n != 32<<20 || err != nil {
			t.Errorf("a slow body of %d bytes: %v", n, err)
		}
	})
}
