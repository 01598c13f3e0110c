package middleware

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// RequestIDHeader carries the id that a request has in the server's log.
const RequestIDHeader = "X-Request-ID"

var requestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

type requestIDKey struct{}

// RequestID gives the id of the request that ctx belongs to.
func RequestID(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}

// newRequestID makes a random UUID.
func newRequestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	text := hex.EncodeToString(b[:])
	return text[:8] + "-" + text[8:12] + "-" + text[12:16] + "-" + text[16:20] + "-" + text[20:]
}

// Request is the outermost: it gives each request its id, each write its deadline, and every
// answer the headers that keep a browser from guessing; it turns a panic into an error answer, and
// logs.
func Request(log *slog.Logger, fail Fail) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(raw http.ResponseWriter, r *http.Request) {
			id := r.Header.Get(RequestIDHeader)
			if !requestID.MatchString(id) {
				id = newRequestID()
			}
			w := NewWriter(raw)
			w.Header().Set(RequestIDHeader, id)
			w.Header().Set("X-Content-Type-Options", "nosniff")
			w.Header().Set("Cache-Control", "no-store")
			r = r.WithContext(context.WithValue(r.Context(), requestIDKey{}, id))
			began := time.Now()
			defer func() {
				if cause := recover(); cause != nil {
					recovered(w, r, log, fail, cause)
				}
				log.LogAttrs(
					r.Context(),
					slog.LevelDebug,
					"request",
					slog.String("id", id),
					slog.String("method", r.Method),
					slog.String(
						"path",
						cut(r.URL.Path),
					),
					slog.Int("status", w.Status),
					slog.Duration("took", time.Since(began)),
				)
			}()
			next.ServeHTTP(w, r)
		})
	}
}

// recovered answers a request whose handler panicked. An answer that has begun is broken off, so
// that nobody takes it for whole.
func recovered(w *Writer, r *http.Request, log *slog.Logger, fail Fail, cause any) {
	err, _ := cause.(error)
	switch {
	case errors.Is(err, http.ErrAbortHandler), w.Hijacked:
		panic(http.ErrAbortHandler)
	case err != nil && (r.Context().Err() != nil || unsent(err)):
		panic(http.ErrAbortHandler) // the client left
	}
	log.Error(
		"panic",
		"id",
		RequestID(r.Context()),
		"method",
		r.Method,
		"path",
		cut(r.URL.Path),
		"cause",
		cause,
		"stack",
		string(debug.Stack()),
	)
	if w.Status != 0 {
		panic(http.ErrAbortHandler)
	}
	fail(w, r, stacyvm.Errorf(stacyvm.CodeInternal, "panic"))
}

// unsent reports an error of writing to a client.
func unsent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, syscall.EPIPE) ||
		errors.Is(err, http.ErrContentLength)
}

// cut bounds a client's text in the log.
func cut(text string) string { return text[:min(len(text), 2048)] }
