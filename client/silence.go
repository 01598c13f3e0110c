package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"
)

// ErrSilent means that a server took a request and gives no sign of life. Whether the request had
// an effect is unknown.
var ErrSilent = errors.New("the server does not answer")

const (
	// silence is how long a connection may be without a byte; a server sends a keepalive each 15 s
	// on what is followed, and answers most calls at once.
	silence = 45 * time.Second
	// A call that may last (see request.long) is silent for as long as it likes while the server
	// answers other questions. It is asked each probeEvery, and given up when it fails maxProbes
	// times in a row.
	probeEvery  = 15 * time.Second
	probeWithin = 20 * time.Second
	maxProbes   = 3 // a server that is merely busy has answered one of them
)

// silentError: the server gave no sign of life.
type silentError struct {
	server string
	after  time.Duration
}

func (e *silentError) Error() string {
	return fmt.Sprintf(
		"%v: the one at %s took the request and gave no sign of life for %s; it is stopped, overloaded or cut off, "+
			"and may carry the request out later (`stacyvm status` and its log say more, `stacyvm list` what there is)",
		ErrSilent,
		e.server,
		e.after,
	)
}
func (e *silentError) Unwrap() error { return ErrSilent }

// watchdog ends a request whose server falls silent.
type watchdog struct {
	client *Client
	long   bool
	ctx    context.Context // the request's
	cancel context.CancelCauseFunc
	timer  *time.Timer
	heard  atomic.Int64 // counts signs of life
	failed int          // probes in a row; only probe uses it
	at     int64        // heard at the probe before; only probe uses it
}

// watch begins to wait for the first byte. Stop it.
func (c *Client) watch(ctx context.Context, r request) *watchdog {
	ctx, cancel := context.WithCancelCause(ctx)
	w := &watchdog{client: c, long: r.long, ctx: ctx, cancel: cancel}
	if r.long {
		w.timer = time.AfterFunc(probeEvery, w.probe)
	} else {
		w.timer = time.AfterFunc(silence, func() { cancel(&silentError{c.base, silence}) })
		if c.probes != c.http {
			// While other calls hold all connections, the server has not been asked yet.
			w.ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
				GetConn: func(string) { w.pause() },
				GotConn: func(httptrace.GotConnInfo) { w.resume() },
			})
		}
	}
	return w
}

// stop ends the watch and the request.
func (w *watchdog) stop() {
	w.timer.Stop()
	w.cancel(nil)
}

// pause lets time pass that is not the server's, until resume: whoever reads an answer may take
// its time.
func (w *watchdog) pause() {
	if !w.long {
		w.timer.Stop()
	}
}

func (w *watchdog) resume() {
	if !w.long {
		w.timer.Reset(silence)
	}
}

// probe asks the server whether it lives, if it said nothing since the last time.
func (w *watchdog) probe() {
	heard := w.heard.Load()
	if heard != w.at || w.client.alive(w.ctx) {
		w.failed = 0
	} else {
		w.failed++
	}
	w.at = w.heard.Load()
	switch {
	case w.ctx.Err() != nil:
	case w.failed >= maxProbes:
		w.cancel(&silentError{w.client.base, probeEvery + maxProbes*probeWithin})
	case w.failed > 0:
		w.timer.Reset(0)
	default:
		w.timer.Reset(probeEvery)
	}
}

// proberOf gives the client that asks for signs of life beside the calls of another. Where that
// may have so many connections only, calls that last can hold all of them.
func proberOf(calls *http.Client) *http.Client {
	transport, ok := calls.Transport.(*http.Transport)
	if !ok || transport.MaxConnsPerHost == 0 {
		return calls
	}
	own := transport.Clone()
	own.MaxConnsPerHost, own.DisableKeepAlives = 0, true
	probes := *calls
	probes.Transport = own
	return &probes
}

// alive reports whether the server answers anything within probeWithin.
func (c *Client) alive(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	ask, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/api/v1/health", nil)
	if err != nil {
		return false
	}
	response, err := c.probes.Do(ask)
	if err != nil {
		return false
	}
	defer response.Body.Close()
	// its status says enough
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, maxErrorBody))
	// a proxy's words
	return response.StatusCode != http.StatusBadGateway && response.StatusCode != http.StatusGatewayTimeout
}

// watchedBody is an answer's body whose bytes are signs of life.
type watchedBody struct {
	io.ReadCloser
	watchdog *watchdog
}

// Read implements io.Reader.
func (b watchedBody) Read(p []byte) (int, error) {
	b.watchdog.resume()
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.watchdog.heard.Add(1)
	}
	b.watchdog.pause()
	if silent, ok := errors.AsType[*silentError](
		context.Cause(b.watchdog.ctx),
	); ok && err != nil &&
		!errors.Is(err, io.EOF) {
		err = silent
	}
	return n, err
}

// Close implements io.Closer.
func (b watchedBody) Close() error {
	b.watchdog.stop()
	return b.ReadCloser.Close()
}
