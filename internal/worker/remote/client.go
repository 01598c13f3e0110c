package remote

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
	"github.com/stacyvm/stacyvm/proto/worker/v1/workerv1connect"
)

const (
	// dialWithin bounds the making of a connection, and handshakeWithin its TLS; watch bounds them
	// together.
	dialWithin      = 4 * time.Second
	handshakeWithin = 5 * time.Second
	// clientWindow is what a stream holds in memory for a reader that does not read, in bytes. The
	// window of the connection stays at the library's far larger default, so that no stream can
	// use it up.
	clientWindow = 256 << 10
	idleFor      = 5 * time.Minute
)

// ClientConfig says which worker is called, and as whom.
type ClientConfig struct {
	ID  stacyvm.WorkerID
	URL string // http://host:port, HTTP/2 without TLS, or https://host:port
	// TLS is for https: pki.Credentials.OfWorker(ID).
	TLS *tls.Config
	// Token gives the credential of one request; nil: the certificate is enough.
	Token func(context.Context) (string, error)
	// RequestID gives the id under which the caller's request is logged, "" without one; nil:
	// none.
	RequestID func(context.Context) string
	// OnError is given the error of each call of the client's methods that failed, and gives what
	// the caller gets; nil: the error as it is. What a guest's connection or a port's does later
	// is not a call.
	OnError func(error) error
}

// Client is one worker on another machine. It is safe for concurrent use, and starts nothing
// before its first call. A connection that broke is made again by the next call. Close it.
type Client struct {
	config ClientConfig
	base   string // without a slash at its end
	conns  *connections
	// control carries the worker's own calls, signs of life and guests' control calls, on a
	// connection that no number of streams fills; data carries everything else, on as many
	// connections as that needs.
	control, data *http.Transport
	rpc           workerv1connect.WorkerServiceClient
}

var (
	_ worker.Worker  = (*Client)(nil)
	_ worker.Expirer = (*Client)(nil)
)

// NewClient checks the configuration; it does not call. CodeInvalid: the address is not one.
func NewClient(config ClientConfig) (*Client, error) {
	at, err := url.Parse(config.URL)
	switch {
	case err != nil || at.Host == "" || at.Scheme != "http" && at.Scheme != "https":
		return nil, stacyvm.Invalid("rpc_url", "must be http://host:port or https://host:port")
	case strings.Trim(at.Path, "/") != "" || at.RawQuery != "" || at.Fragment != "" || at.User != nil:
		return nil, stacyvm.Invalid("rpc_url", "holds more than a host and a port")
	case at.Scheme == "https" && config.TLS == nil:
		return nil, stacyvm.Invalid("rpc_url", "is https, and there are no certificates for it")
	}
	c := &Client{config: config, base: at.Scheme + "://" + at.Host, conns: newConnections()}
	c.control, c.data = c.transport(at.Scheme), c.transport(at.Scheme)
	c.rpc = workerv1connect.NewWorkerServiceClient(
		c,
		c.base,
		connect.WithReadMaxBytes(
			maxMessage,
		),
		connect.WithSendMaxBytes(maxMessage),
		connect.WithAcceptCompression("gzip", nil, nil),
	)
	return c, nil
}

func (c *Client) transport(scheme string) *http.Transport {
	t := &http.Transport{
		DialContext:            c.dial,
		TLSClientConfig:        c.config.TLS.Clone(), // the transport changes it
		TLSHandshakeTimeout:    handshakeWithin,
		Protocols:              new(http.Protocols),
		DisableCompression:     true,
		IdleConnTimeout:        idleFor,
		MaxResponseHeaderBytes: maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: clientWindow,
			SendPingTimeout:           pingAfter,
			PingTimeout:               pingWithin,
			WriteByteTimeout:          writeWithin,
		},
	}
	t.Protocols.SetHTTP2(scheme == "https")
	t.Protocols.SetUnencryptedHTTP2(scheme == "http")
	return t
}

// Close cuts every connection and every call on it. Calls after it give CodeUnavailable.
func (c *Client) Close() error {
	c.conns.close()
	c.control.CloseIdleConnections()
	c.data.CloseIdleConnections()
	return nil
}

// Do implements connect's and guest's way to send a request: with who calls, and for whom.
func (c *Client) Do(request *http.Request) (*http.Response, error) {
	ctx := request.Context()
	sent := request.WithContext(ctx) // a copy: the credential stays out of the caller's hands
	sent.Header = request.Header.Clone()
	sent.Header.Set(workerHeader, string(c.config.ID))
	if c.config.RequestID != nil {
		if id := c.config.RequestID(ctx); id != "" {
			sent.Header.Set(requestHeader, id)
		}
	}
	if c.config.Token != nil {
		token, err := c.config.Token(ctx)
		if err != nil {
			return nil, refuse(request, failure(ctx, err))
		}
		sent.Header.Set("Authorization", "Bearer "+token)
	}
	transport := c.data
	if path := request.URL.Path; methods[path] != "" ||
		strings.HasPrefix(path, guestPrefix) && guest.IsControl(methodOf(path)) {
		transport = c.control
	}
	answer, err := transport.RoundTrip(sent)
	if err != nil {
		return nil, err
	}
	if err := marked(answer.Header); err != nil {
		answer.Body.Close()
		return nil, err
	}
	return answer, nil
}

// refuse ends a request that is not sent; whoever writes its body must learn of that.
func refuse(request *http.Request, err error) error {
	if request.Body != nil {
		_ = request.Body.Close()
	}
	return err
}

// Guest implements worker.Worker. It asks the worker once, so that a refusal comes here and not
// with the first request.
func (c *Client) Guest(ctx context.Context, ref stacyvm.Ref, scope guest.Scope) (guest.Conn, error) {
	if err := c.admit(ctx, ref); err != nil {
		return guest.Conn{}, err
	}
	prefix := pathOf(guestPrefix, ref)
	return guest.Conn{HTTP: scoped{c, scope, prefix}, URL: c.base + prefix}, nil
}

// scoped is a client as the holder of a guest's connection may use it.
type scoped struct {
	client *Client
	scope  guest.Scope
	prefix string
}

// Do implements guest.Doer: a request beyond the scope is refused with CodeForbidden before
// anything is sent.
func (s scoped) Do(request *http.Request) (*http.Response, error) {
	method, ok := strings.CutPrefix(request.URL.Path, s.prefix)
	if !ok || !s.scope.Allows(method) {
		return nil, refuse(request, stacyvm.Errorf(stacyvm.CodeForbidden, "this connection is for %s alone", s.scope))
	}
	return s.client.Do(request)
}

// DialPort implements worker.Worker. The connection has CloseWrite, as TCP connections do.
func (c *Client) DialPort(ctx context.Context, ref stacyvm.Ref, port uint16) (net.Conn, error) {
	if !ref.ID.Valid() {
		return nil, stacyvm.Errorf(stacyvm.CodeNotFound, "the sandbox has no runtime here")
	}
	ctx, _, end := c.watch(ctx)
	defer end()
	conn, err := guest.NewClient(guest.Conn{HTTP: c, URL: c.base + pathOf(portPrefix, ref)}).Connect(ctx, port)
	return conn, c.failed(err)
}

// failed gives the error of a call to OnError.
func (c *Client) failed(err error) error {
	if err == nil || c.config.OnError == nil {
		return err
	}
	return c.config.OnError(err)
}

// pathOf names a sandbox and a fence.
func pathOf(prefix string, ref stacyvm.Ref) string {
	return prefix + string(
		ref.ID,
	) + "/" + strconv.FormatInt(
		ref.Fence.Incarnation,
		10,
	) + "/" + strconv.FormatInt(
		ref.Fence.Epoch,
		10,
	)
}
