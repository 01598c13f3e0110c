package client

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// ErrNoServer means that nothing answers at the server's address.
var ErrNoServer = errors.New("no server answers")

// Error is a server's refusal.
type Error struct {
	Status    int    // HTTP status
	Code      string // such as NOT_FOUND; see the Code constants
	Message   string // for people
	RequestID string // to find the request in the server's log
	// RetryAfter is how long the server asks to wait before another try; 0: it did not say.
	RetryAfter time.Duration
}

// Codes of Error that callers tell apart.
const (
	CodeBadRequest    = "BAD_REQUEST"
	CodeUnauthorized  = "UNAUTHORIZED"
	CodeForbidden     = "FORBIDDEN"
	CodeNotFound      = "NOT_FOUND"
	CodeTimeout       = "TIMEOUT"
	CodeConflict      = "CONFLICT"
	CodeResourceLimit = "RESOURCE_LIMIT"
	CodeStorageFull   = "STORAGE_FULL"
	CodeInternal      = "INTERNAL_ERROR"
	CodeUnavailable   = "UNAVAILABLE"
)

// Error gives the server's message.
func (e *Error) Error() string {
	if e.Message == "" {
		return fmt.Sprintf("the server answered %d %s", e.Status, e.Code)
	}
	return e.Message
}

// CodeOf gives the code of the first *Error in err's chain, "" without one.
func CodeOf(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

// brokenError: the connection broke after the request was sent, so that its effect is unknown.
type brokenError struct{ err error }

// Error leaves out what only the transport knows, such as addresses and ports of this side.
func (e *brokenError) Error() string {
	why := e.err.Error()
	if number, ok := errors.AsType[syscall.Errno](e.err); ok {
		why = number.Error()
	} else if errors.Is(e.err, io.EOF) || errors.Is(e.err, io.ErrUnexpectedEOF) {
		why = "the server ended it"
	}
	return "the connection to the server broke: " + why
}
func (e *brokenError) Unwrap() error { return e.err }

// broken makes a brokenError, but of a server that fell silent.
func broken(err error) error {
	if silent, ok := errors.AsType[*silentError](err); ok {
		return silent
	}
	return &brokenError{err}
}

// transportError tells a server that is not there from a connection that broke.
func (c *Client) transportError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w at %s: %w", ErrNoServer, c.base, op.Err)
	}
	if errors.Is(err, http.ErrSchemeMismatch) {
		return fmt.Errorf("the server at %s does not speak TLS: use http://", c.base)
	}
	if untrusted, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return fmt.Errorf("the server at %s: %w", c.base, untrusted)
	}
	return &brokenError{err}
}

const maxErrorBody = 64 << 10

// answerError reads an error answer; one that is not ours (a proxy's) keeps its status and first
// words.
func answerError(response *http.Response) *Error {
	e := &Error{Status: response.StatusCode, RequestID: response.Header.Get("X-Request-ID")}
	body, _ := io.ReadAll(io.LimitReader(response.Body, maxErrorBody)) // whatever came is all there is to tell
	var wire struct{ Code, Message string }
	if json.Unmarshal(body, &wire) == nil && wire.Code != "" {
		e.Code, e.Message = wire.Code, wire.Message
	} else {
		e.Code = strings.ToUpper(strings.ReplaceAll(http.StatusText(response.StatusCode), " ", "_"))
		first, _, _ := strings.Cut(string(body), "\n")
		e.Message = fmt.Sprintf("the server answered %d: %.200s", response.StatusCode, first)
	}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	return e
}
