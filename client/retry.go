package client

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"
)

const (
	// repeatFor bounds the repeats of a call that is not part of a session.
	repeatFor  = 10 * time.Second
	firstPause = 50 * time.Millisecond
	maxPause   = 2 * time.Second
)

// persist tries once, then again while r allows it, the failure is one that passes, and time is
// left.
func (c *Client) persist(ctx context.Context, r request, try func() error) error {
	window := repeatFor
	if r.patient {
		window = c.patience
	}
	start, pause := time.Now(), firstPause
	for first := true; ; first = false {
		err := try()
		if err == nil || !passes(err, r, first) {
			return err
		}
		wait := pause + rand.N(pause/2) // apart from other clients of the same server
		var refusal *Error
		if errors.As(err, &refusal) && refusal.RetryAfter > 0 {
			wait = refusal.RetryAfter
		}
		if time.Since(start)+wait > window {
			return err
		}
		if !sleep(ctx, wait) {
			return context.Cause(ctx)
		}
		pause = min(2*pause, maxPause)
	}
}

// passes reports whether the same request may succeed a moment later.
func passes(err error, r request, first bool) bool {
	if r.raw != nil {
		return false
	}
	if errors.Is(err, ErrNoServer) {
		// Nothing was sent. On a first call it is better to say at once that there is no server.
		return r.patient || !first
	}
	if !r.repeat && !r.patient {
		return false
	}
	if _, ok := errors.AsType[*brokenError](err); ok {
		return r.repeat
	}
	if errors.Is(err, ErrSilent) { // a session is patient; what is followed judges for itself
		return r.repeat && r.patient && r.long
	}
	var refusal *Error
	if !errors.As(err, &refusal) {
		return false
	}
	switch refusal.Status {
	case http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
		return r.patient || refusal.RetryAfter > 0
	case http.StatusConflict:
		return refusal.RetryAfter > 0
	case http.StatusTooManyRequests: // a session that comes back may have to wait for a place
		return r.patient && refusal.RetryAfter > 0
	default:
		return false
	}
}

// again reports whether a stream that was good should be opened once more. One that fell silent
// may have lost its connection alone.
func again(err error, r request) bool { return errors.Is(err, ErrSilent) || passes(err, r, false) }

// sleep waits and reports whether the context still lives.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
