// Package budget bounds what requests hold in sum: in memory, with bodies that are read whole,
// output that is collected and lists, and open at once, as streams and connections. It knows
// nothing of what the bytes are.
package budget

import (
	"context"
	"sync"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Small is what each request may hold without being counted, in bytes. The number of connections
// bounds the sum of these.
const Small = 64 << 10

// Budget is a number of bytes that all requests share. A caller may take at most as much as it
// leaves to others, so that the first one to ask for everything gets half of it, the next one half
// of the rest.
type Budget struct {
	mu   sync.Mutex
	free int64
	held map[string]int64 // by caller
}

// New makes a budget of so many bytes.
func New(bytes int64) *Budget {
	return &Budget{free: bytes, held: map[string]int64{}}
}

// Open begins the account of one request. caller is whose share it counts against. Close it.
func (b *Budget) Open(caller string) *Account {
	return &Account{budget: b, caller: caller, small: Small}
}

// Account is what one request holds. A nil Account is never refused anything. It is safe for
// concurrent use.
type Account struct {
	budget *Budget
	caller string
	small  int64 // guarded by budget.mu, like what follows: what is left of Small
	held   int64 // of the budget
	closed bool
}

// Take asks for n more bytes and reports whether they may be held.
func (a *Account) Take(n int) bool {
	if a == nil {
		return true
	}
	b := a.budget
	b.mu.Lock()
	defer b.mu.Unlock()
	counted := max(0, int64(n)-a.small)
	if a.closed || counted > 0 && b.held[a.caller]+counted > b.free-counted {
		return false
	}
	a.small -= int64(n) - counted
	a.held += counted
	a.move(counted)
	return true
}

// Give returns everything that was taken so far.
func (a *Account) Give() {
	if a == nil {
		return
	}
	a.budget.mu.Lock()
	defer a.budget.mu.Unlock()
	a.move(-a.held)
	a.held, a.small = 0, Small
}

// Close returns everything; further bytes are refused.
func (a *Account) Close() {
	a.Give()
	a.budget.mu.Lock()
	defer a.budget.mu.Unlock()
	a.closed = true
}

// move takes bytes from the budget to the caller's share.
func (a *Account) move(bytes int64) {
	b := a.budget
	b.free -= bytes
	if b.held[a.caller] += bytes; b.held[a.caller] == 0 {
		delete(b.held, a.caller)
	}
}

// Refused is the error for a request whose account was refused something: CodeUnavailable.
func Refused() error {
	return stacyvm.Errorf(
		stacyvm.CodeUnavailable,
		"the server holds too much in memory for requests under way; try again",
	)
}

type key struct{}

// With gives requests below ctx an account.
func With(ctx context.Context, a *Account) context.Context { return context.WithValue(ctx, key{}, a) }

// From gives the account of the request that ctx belongs to; nil: nobody counts.
func From(ctx context.Context) *Account {
	a, _ := ctx.Value(key{}).(*Account)
	return a
}
