package budget

import (
	"io"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// A text that is read whole must come at leastPace on average, in bytes per second, after
// paceGrace: what it holds is withheld from others.
const (
	leastPace = 64 << 10
	paceGrace = 60 * time.Second
)

// reader counts what is read from r and kept.
type reader struct {
	r       io.Reader
	account *Account
	copies  int
	began   time.Time
	read    int64
}

// NewReader counts everything that is read through it in a, copies times: once for each form in
// which it is in memory. Its errors besides those of r: CodeUnavailable when the account is
// refused the bytes; CodeTimeout when they come too slowly.
func NewReader(r io.Reader, a *Account, copies int) io.Reader {
	return &reader{r: r, account: a, copies: copies, began: time.Now()}
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if !r.account.Take(n * r.copies) {
		return 0, Refused()
	}
	r.read += int64(n)
	if took := time.Since(r.began); err == nil && took > paceGrace+time.Duration(r.read/leastPace)*time.Second {
		return 0, stacyvm.Errorf(stacyvm.CodeTimeout, "body: came slower than %d KiB a second", leastPace>>10)
	}
	return n, err
}
