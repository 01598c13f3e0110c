package budget_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stacyvm/stacyvm/internal/budget"
)

// all takes pieces until it is refused and gives how many bytes that were.
func all(a *budget.Account) (bytes int) {
	for a.Take(1 << 10) {
		bytes += 1 << 10
	}
	return bytes
}

func TestShares(t *testing.T) {
	b := budget.New(1 << 20)
	first, second, again := b.Open("one"), b.Open("two"), b.Open("one")
	if got := all(first); got != 512<<10+budget.Small {
		t.Errorf("the first caller got %d bytes, not half and what is not counted", got)
	}
	if got := all(again); got != budget.Small {
		t.Errorf("a second request of the same caller got %d bytes of others' share", got-budget.Small)
	}
	if got := all(second); got != 256<<10+budget.Small {
		t.Errorf("the second caller got %d bytes, not half of the rest", got)
	}
	first.Close()
	if got := all(again); got == 0 {
		t.Error("what a closed account held was not given back")
	}
	if first.Take(1) {
		t.Error("a closed account was given a byte")
	}
}

func TestGiveReturnsEverything(t *testing.T) {
	b := budget.New(1 << 20)
	var callers sync.WaitGroup
	for i := range 50 {
		callers.Go(func() {
			a := b.Open(fmt.Sprint(i % 7))
			for range 20 {
				a.Take(40 << 10)
				a.Give()
			}
			a.Close()
		})
	}
	callers.Wait()
	if got := all(b.Open("last")); got != 512<<10+budget.Small {
		t.Errorf("%d bytes are there after everybody gave back", got)
	}
}

func TestNobodyCounts(t *testing.T) {
	a := budget.From(context.Background())
	if !a.Take(1 << 40) {
		t.Error("a context without an account refused bytes")
	}
	a.Give()
	mine := budget.New(1).Open("me")
	if budget.From(budget.With(t.Context(), mine)) != mine {
		t.Error("the account did not come with its context")
	}
}
