package middleware

import (
	"io"
	"net/http"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// bodyStall is how long a client may send nothing of a body that it promised.
const bodyStall = 30 * time.Second

// Body refuses encoded bodies and gives each read of a body its own deadline, so that a client which sends nothing holds
// nothing.
func Body(fail Fail) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if encoding := r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
				fail(w, r, stacyvm.Invalid("Content-Encoding", "%.64q is not supported; send the body as it is", encoding))
				return
			}
			if r.Body != nil && r.Body != http.NoBody {
				r.Body = &body{ReadCloser: r.Body, control: http.NewResponseController(w)}
			}
			next.ServeHTTP(w, r)
		})
	}
}

type body struct {
	io.ReadCloser
	control *http.ResponseController
}

// Read starts the time anew and takes the deadline away at the end: it would end the whole request otherwise.
func (b *body) Read(p []byte) (int, error) {
	_ = b.control.SetReadDeadline(time.Now().Add(bodyStall)) // a connection without deadlines goes without
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		_ = b.control.SetReadDeadline(time.Time{})
	}
	return n, err
}
