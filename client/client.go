// Package client is the Go client of a stacyvm server's REST API. It needs the standard library
// only.
//
// Every method takes a context and may be called concurrently. A failed call returns an *Error
// when the server answered, or an error that wraps ErrNoServer when none did. Calls that are safe
// to repeat are repeated after a broken connection; creating a sandbox and starting a process are
// safe because the client names them first.
package client

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"reflect"
	"strings"
	"time"
)

// DefaultURL is where a server listens that was not told otherwise.
const DefaultURL = "http://localhost:7423"

// DefaultPatience is how long a stream keeps trying to reach a server that went away.
const DefaultPatience = time.Minute

// Options says who is calling and how. The zero value is good for an open server on this machine.
type Options struct {
	APIKey   string // sent as X-API-Key
	AdminKey string // sent as X-Admin-API-Key
	UserID   string // sent as X-User-ID: owner of new sandboxes and name in the audit
	// WorkerID is who a worker process is; WorkerToken gives its credential for one request, nil:
	// the certificate in TLS.
	WorkerID    string
	WorkerToken func(context.Context) (string, error)
	// HTTPClient sends the requests; nil is a client without an overall time limit, so that
	// streams may last. One with a limit of connections should bound its dials: while a call waits for
	// one of them, a silent server is not noticed.
	HTTPClient *http.Client
	// TLS is for https without an HTTPClient: whom to believe, and the caller's own certificate.
	// nil: the machine's authorities.
	TLS *tls.Config
	// Patience bounds how long output, input and waiting survive an absent server; 0 is
	// DefaultPatience.
	Patience time.Duration
}

// Client talks to one server. Make it with New; it holds no connection that must be closed.
type Client struct {
	base     string
	options  Options
	http     *http.Client
	probes   *http.Client // asks for signs of life
	patience time.Duration
}

// New makes a client for the server at baseURL, such as "http://localhost:7423". It does not
// connect.
func New(baseURL string, options Options) (*Client, error) {
	parsed, err := url.Parse(baseURL)
	if err != nil || (parsed.Scheme != "http" && parsed.Scheme != "https") || parsed.Host == "" {
		return nil, fmt.Errorf("server address %q is not of the form http://host:port", baseURL)
	}
	c := &Client{
		base:     strings.TrimSuffix(baseURL, "/"),
		options:  options,
		http:     options.HTTPClient,
		patience: options.Patience,
	}
	if c.http == nil {
		c.http = &http.Client{}
		if options.TLS != nil {
			transport := http.DefaultTransport.(*http.Transport).Clone()
			transport.TLSClientConfig = options.TLS
			c.http.Transport = transport
		}
	}
	c.probes = proberOf(c.http)
	if c.patience <= 0 {
		c.patience = DefaultPatience
	}
	return c, nil
}

// request is one call.
type request struct {
	method string
	path   string // below /api/v1
	query  url.Values
	body   any       // sent as JSON unless raw is set
	raw    io.Reader // sent as it is; such a request is never repeated
	// contentType of raw; empty: bytes.
	contentType string
	header      map[string]string
	answer      *http.Header // takes the header of the answer; nil: nobody asks
	// repeat: sending it twice does no harm.
	repeat bool
	// patient: keep trying while no server answers (a session that was good before).
	patient bool
	// long: the answer may take as long as a command, a transfer, much work or a guest without a
	// processor does; others come at once.
	long bool
}

// once sends r a single time and decodes the answer.
func (c *Client) once(ctx context.Context, r request, into any) error {
	response, err := c.send(ctx, r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if r.answer != nil {
		*r.answer = response.Header
	}
	if into == nil {
		_, err = io.Copy(io.Discard, response.Body)
	} else {
		err = json.NewDecoder(response.Body).Decode(into)
	}
	if err != nil {
		return broken(fmt.Errorf("read the answer to %s %s: %w", r.method, r.path, err))
	}
	return nil
}

// call sends r, repeats it where that is safe, and decodes the answer into a non-nil into.
func (c *Client) call(ctx context.Context, r request, into any) error {
	return c.persist(ctx, r, func() error { return c.once(ctx, r, into) })
}

// send makes one attempt. A status of 400 or more becomes an *Error.
func (c *Client) send(ctx context.Context, r request) (*http.Response, error) {
	w := c.watch(ctx, r)
	httpRequest, err := c.prepare(w.ctx, r)
	if err != nil {
		w.stop()
		return nil, err
	}
	response, err := c.http.Do(httpRequest)
	if err != nil {
		defer w.stop()
		return nil, c.transportError(w.ctx, err)
	}
	w.heard.Add(1)
	w.pause()
	response.Body = watchedBody{response.Body, w}
	if response.StatusCode >= http.StatusBadRequest {
		defer response.Body.Close()
		return nil, answerError(response)
	}
	return response, nil
}

func (c *Client) prepare(ctx context.Context, r request) (*http.Request, error) {
	body, contentType := r.raw, cmp.Or(r.contentType, "application/octet-stream")
	if r.raw == nil && r.body != nil {
		if err := checkText("", reflect.ValueOf(r.body)); err != nil {
			return nil, err
		}
		encoded, err := json.Marshal(r.body)
		if err != nil {
			return nil, fmt.Errorf("encode the request: %w", err)
		}
		body, contentType = bytes.NewReader(encoded), "application/json"
	}
	address := c.base + "/api/v1" + r.path
	if len(r.query) > 0 {
		address += "?" + r.query.Encode()
	}
	httpRequest, err := http.NewRequestWithContext(ctx, r.method, address, body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	if body != nil {
		httpRequest.Header.Set("Content-Type", contentType)
	}
	headers := map[string]string{
		"X-API-Key":       c.options.APIKey,
		"X-Admin-API-Key": c.options.AdminKey,
		"X-User-ID":       c.options.UserID,
	}
	for _, set := range []map[string]string{headers, r.header} {
		for name, value := range set {
			if value != "" {
				httpRequest.Header.Set(name, value)
			}
		}
	}
	return httpRequest, c.identify(ctx, httpRequest.Header)
}

// newKey makes a name that nobody else has: for idempotency keys and process ids.
func newKey() string { return strings.ToLower(rand.Text()) }

// pathOf joins path segments, each escaped.
func pathOf(segments ...string) string {
	var path strings.Builder
	for _, segment := range segments {
		path.WriteString("/" + url.PathEscape(segment))
	}
	return path.String()
}
