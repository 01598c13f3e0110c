package middleware

import (
	"errors"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// bodyStall is how long a client may send nothing of a body that it promised.
	bodyStall = 30 * time.Second
	// restStall bounds the wait for what nobody wanted to read.
	restStall = 5 * time.Second
)

// Body refuses encoded bodies and gives each read of a body its own deadline, so that a client
// which sends nothing holds nothing.
func Body(fail Fail) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if encoding := r.Header.Get("Content-Encoding"); encoding != "" && encoding != "identity" {
				fail(
					w,
					r,
					stacyvm.Invalid("Content-Encoding", "%.64q is not supported; send the body as it is", encoding),
				)
				return
			}
			if r.Body == nil || r.Body == http.NoBody {
				next.ServeHTTP(w, r)
				return
			}
			b := &body{ReadCloser: r.Body, control: http.NewResponseController(w)}
			r.Body = b
			next.ServeHTTP(w, r)
			if !b.ended { // the server reads some of the rest, to keep the connection
				_ = b.control.SetReadDeadline(time.Now().Add(restStall))
			}
		})
	}
}

type body struct {
	io.ReadCloser
	control *http.ResponseController
	ended   bool // it was read to its end
}

// Read starts the time anew and takes the deadline away at the end: it would end the whole request
// otherwise. A body that breaks off is the client's error, and none that anybody takes for a
// body's end.
func (b *body) Read(p []byte) (int, error) {
	_ = b.control.SetReadDeadline(time.Now().Add(bodyStall)) // a connection without deadlines goes without
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	var slow net.Error
	switch {
	case errors.Is(err, io.EOF):
		b.ended = true
		_ = b.control.SetReadDeadline(time.Time{})
		return n, io.EOF
	case errors.As(err, &slow) && slow.Timeout():
		return n, stacyvm.Wrap(stacyvm.CodeTimeout, err, "body: nothing came for "+bodyStall.String())
	}
	return n, &stacyvm.Error{Code: stacyvm.CodeInvalid, Field: "body", Message: "body: it broke off", Err: err}
}
