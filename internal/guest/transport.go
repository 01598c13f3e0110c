package guest

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// dialWithin bounds one try to reach a guest.
	dialWithin = 10 * time.Second
	// A peer that is silent this long is asked for a sign of life, and given up when none comes.
	// The guest program answers by itself, whatever its processes do: a command may be quiet for
	// hours.
	pingAfter  = 10 * time.Second
	pingWithin = 20 * time.Second
	// writeWithin is how long a peer may take nothing at all.
	writeWithin = 30 * time.Second
	// streamWindow is what a stream holds in memory for a reader that does not read, in bytes. The
	// window of the connection stays at the library's far larger default, so that no stream can
	// use it up.
	streamWindow = 64 << 10
	maxHeader    = 32 << 10
	// mostConns bounds the connections of one kind: the guest program takes 1,024 requests on
	// each.
	mostConns = 64
	// mostTries is how often a request waits for a first connection.
	mostTries = 3
	// baseURL names no host: the connection is what it is.
	baseURL = "http://guest"
)

// Transport keeps HTTP/2 connections to a guest program open and makes them again when they broke:
// one for control calls (see IsControl), and as many as their number needs for all others. It is
// safe for concurrent use and starts nothing before its first request. Close it.
type Transport struct {
	// DialDirect opens a connection that takes HTTP/1; nil, or CodeUnsupported: the guest has none.
	// Set it before the first request.
	DialDirect func(context.Context) (net.Conn, error)

	http   *http.Transport
	secret Secret
	life   context.Context // ends with Close
	end    context.CancelFunc

	mu            sync.Mutex
	control, data pool
	direct        direct
}

// pool is the connections for one kind of request.
type pool struct {
	open    []*http.ClientConn
	dialing *attempt // nil: no try is under way
}

// attempt is one try to connect.
type attempt struct {
	done chan struct{} // closed when err is set and the connection is in the pool
	err  error
}

// NewTransport makes a transport over connections that dial opens; each of them must be ready for
// HTTP/2, its boot message done. dial's errors are passed on when they are *stacyvm.Error,
// otherwise they read CodeUnavailable.
func NewTransport(dial func(context.Context) (net.Conn, error), secret Secret) *Transport {
	life, end := context.WithCancel(context.Background())
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &Transport{
		secret: secret, life: life, end: end,
		http: &http.Transport{
			DialContext:            func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
			Protocols:              protocols,
			DisableCompression:     true,
			MaxResponseHeaderBytes: maxHeader,
			HTTP2: &http.HTTP2Config{
				MaxReceiveBufferPerStream: streamWindow,
				SendPingTimeout:           pingAfter,
				PingTimeout:               pingWithin,
				WriteByteTimeout:          writeWithin,
			},
		},
	}
}

// Conn gives a connection that is limited to one scope: a request beyond it is refused with
// CodeForbidden before anything is sent.
func (t *Transport) Conn(scope Scope) Conn { return Conn{HTTP: scoped{t, scope}, URL: baseURL} }

// Close cuts the connections and every stream on them. Requests after it give CodeUnavailable.
func (t *Transport) Close() {
	t.end()
	t.closeDirect()
	for _, p := range []*pool{&t.control, &t.data} {
		t.mu.Lock()
		last := p.dialing
		t.mu.Unlock()
		if last != nil {
			<-last.done
		}
		t.mu.Lock()
		open := p.open
		p.open = nil
		t.mu.Unlock()
		for _, conn := range open {
			_ = conn.Close()
		}
	}
}

// scoped is a transport as a Conn's holder may use it.
type scoped struct {
	transport *Transport
	scope     Scope
}

// Do implements Doer.
func (s scoped) Do(request *http.Request) (*http.Response, error) {
	if !s.scope.Allows(request.URL.Path) {
		return nil, refuse(request, stacyvm.Errorf(stacyvm.CodeForbidden, "this connection is for %s alone", s.scope))
	}
	conn, direct, err := s.transport.reserveFor(request)
	if err != nil {
		return nil, refuse(request, err)
	}
	sent := request.WithContext(request.Context()) // a copy: the secret stays out of the caller's hands
	sent.Header = request.Header.Clone()
	sent.Header.Set("Authorization", "Bearer "+string(s.transport.secret))
	if !direct {
		sent.Header.Del(FrameHeader) // others wait while a frame is sent, and windows are small
	}
	return conn.RoundTrip(sent)
}

// reserveFor gives the connection for a request, and whether it has that for itself.
func (t *Transport) reserveFor(request *http.Request) (conn http.RoundTripper, direct bool, err error) {
	path := request.URL.Path
	if mayGoDirect(path) {
		if conn := t.reserveDirect(request.Context()); conn != nil {
			return conn, true, nil
		}
	}
	kind := &t.data
	if IsControl(path) {
		kind = &t.control
	}
	conn, err = t.reserve(request.Context(), kind)
	return conn, false, err
}

// refuse ends a request that is not sent; whoever writes its body must learn of that.
func refuse(request *http.Request, err error) error {
	if request.Body != nil {
		_ = request.Body.Close()
	}
	return err
}

// reserve gives a connection that has room for one request more, or waits for a new one. A caller
// that leaves does not end the try for the others.
func (t *Transport) reserve(ctx context.Context, p *pool) (*http.ClientConn, error) {
	for tries := 0; ; {
		conn, dialing, err := t.tryReserve(p, &tries)
		if conn != nil || err != nil {
			return conn, err
		}
		select {
		case <-dialing.done:
			if dialing.err != nil {
				return nil, dialing.err
			}
		case <-ctx.Done():
			return nil, ended(ctx)
		}
	}
}

// tryReserve gives a connection that has room, or the try to make one. tries counts those for a
// first connection: one that breaks at once is made again a few times.
func (t *Transport) tryReserve(p *pool, tries *int) (*http.ClientConn, *attempt, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.life.Err() != nil {
		return nil, nil, errClosed
	}
	p.open = slices.DeleteFunc(p.open, finished)
	for _, conn := range p.open {
		if conn.Reserve() == nil {
			return conn, nil, nil
		}
	}
	if len(p.open) == 0 {
		if *tries++; *tries > mostTries {
			return nil, nil, cut()
		}
	}
	if len(p.open) >= mostConns {
		return nil, nil, stacyvm.Errorf(stacyvm.CodeUnavailable, "too many requests to the sandbox are open")
	}
	if p.dialing == nil {
		p.dialing = &attempt{done: make(chan struct{})}
		go t.dial(p, p.dialing)
	}
	return nil, p.dialing, nil
}

var errClosed = stacyvm.Errorf(stacyvm.CodeUnavailable, "the connection to the sandbox is closed")

// finished reports whether a connection broke, or takes nothing more and carries nothing any more;
// that one is closed.
func finished(conn *http.ClientConn) bool {
	if conn.Err() == nil && (conn.Available() > 0 || conn.InFlight() > 0) {
		return false
	}
	_ = conn.Close()
	return true
}

func (t *Transport) dial(p *pool, a *attempt) {
	defer close(a.done)
	ctx, cancel := context.WithTimeout(t.life, dialWithin)
	defer cancel()
	conn, err := t.http.NewClientConn(ctx, "http", "guest:80")
	a.err = failure(ctx, err)
	if err == nil && p == &t.control {
		conn.SetStateHook(t.controlChanged)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	p.dialing = nil
	if err == nil {
		p.open = append(p.open, conn)
	}
}

// controlChanged gives up the direct connections with the one that is watched: see pingAfter. It is
// called with and without t.mu held.
func (t *Transport) controlChanged(conn *http.ClientConn) {
	if conn.Err() != nil {
		go t.closeDirect()
	}
}
