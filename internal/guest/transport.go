package guest

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// dialWithin bounds one try to reach a guest.
	dialWithin = 10 * time.Second
	// A peer that is silent this long is asked for a sign of life, and given up when none comes. The guest program answers
	// by itself, whatever its processes do: a command may be quiet for hours.
	pingAfter  = 10 * time.Second
	pingWithin = 20 * time.Second
	// writeWithin is how long a peer may take nothing at all.
	writeWithin = 30 * time.Second
	// streamWindow is what a stream holds in memory for a reader that does not read, in bytes. The window of the connection
	// stays at the library's far larger default, so that no stream can use it up.
	streamWindow = 512 << 10
	maxHeader    = 32 << 10
	// baseURL names no host: the connection is what it is.
	baseURL = "http://guest"
)

// Transport keeps one HTTP/2 connection to a guest program open and makes it again when it broke. It is safe for
// concurrent use and starts nothing before its first request. Close it.
type Transport struct {
	http   *http.Transport
	secret Secret
	life   context.Context // ends with Close
	end    context.CancelFunc

	mu      sync.Mutex
	current *attempt
}

// attempt is one try to connect and the connection that came of it.
type attempt struct {
	done chan struct{} // closed when conn and err are set
	conn *http.ClientConn
	err  error
}

// NewTransport makes a transport over connections that dial opens; each of them must be ready for HTTP/2, its boot
// message done. dial's errors are passed on when they are *stacyvm.Error, otherwise they read CodeUnavailable.
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

// Conn gives a connection that is limited to one scope: a request beyond it is refused with CodeForbidden before anything
// is sent.
func (t *Transport) Conn(scope Scope) Conn { return Conn{HTTP: scoped{t, scope}, URL: baseURL} }

// Close cuts the connection and every stream on it. Requests after it give CodeUnavailable.
func (t *Transport) Close() {
	t.end()
	t.mu.Lock()
	last := t.current
	t.mu.Unlock()
	if last == nil {
		return
	}
	<-last.done
	last.close()
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
	conn, err := s.transport.connection(request.Context())
	if err != nil {
		return nil, refuse(request, err)
	}
	sent := request.WithContext(request.Context()) // a copy: the secret stays out of the caller's hands
	sent.Header = request.Header.Clone()
	sent.Header.Set("Authorization", "Bearer "+string(s.transport.secret))
	response, err := conn.RoundTrip(sent)
	if err != nil && request.Context().Err() == nil && conn.Available() == 0 {
		_ = conn.Close() // the peer takes no more requests here: the next one needs a new connection
	}
	return response, err
}

// refuse ends a request that is not sent; whoever writes its body must learn of that.
func refuse(request *http.Request, err error) error {
	if request.Body != nil {
		_ = request.Body.Close()
	}
	return err
}

// connection gives the open connection, or waits for a new one. A caller that leaves does not end the try for the others.
func (t *Transport) connection(ctx context.Context) (*http.ClientConn, error) {
	a, err := t.attempt()
	if err != nil {
		return nil, err
	}
	select {
	case <-a.done:
		return a.conn, a.err
	case <-ctx.Done():
		return nil, ended(ctx)
	}
}

// attempt gives the try that is under way or went well, or begins another one.
func (t *Transport) attempt() (*attempt, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.life.Err() != nil {
		return nil, stacyvm.Errorf(stacyvm.CodeUnavailable, "the connection to the sandbox is closed")
	}
	if t.current == nil || t.current.broken() {
		t.current = &attempt{done: make(chan struct{})}
		go t.dial(t.current)
	}
	return t.current, nil
}

func (t *Transport) dial(a *attempt) {
	defer close(a.done)
	ctx, cancel := context.WithTimeout(t.life, dialWithin)
	defer cancel()
	conn, err := t.http.NewClientConn(ctx, "http", "guest:80")
	a.conn, a.err = conn, failure(ctx, err)
}

// broken reports whether a new try is needed.
func (a *attempt) broken() bool {
	select {
	case <-a.done:
		return a.err != nil || a.conn.Err() != nil
	default:
		return false
	}
}

func (a *attempt) close() {
	if a.conn != nil {
		_ = a.conn.Close()
	}
}
