package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
)

const (
	// mostDirect bounds the direct connections to one guest. What is beyond shares connections.
	mostDirect = 64
	// sweepDirect is how often those are closed that carried nothing since the last time.
	sweepDirect = 15 * time.Second
	// directBuffer is what a direct connection holds for each direction, in bytes.
	directBuffer = 8 << 10
)

// direct is the connections to a guest that carry one request at a time, over HTTP/1. Its bytes
// need no frames, no windows and no goroutine between a handler and the connection: in a sandbox
// each of them costs system calls of the guest, which are slow. What a reader does not read waits
// in the kernel, in the connection's buffer.
type direct struct {
	open    []*directConn
	dialing int
	none    bool // the guest has none
	sweep   *time.Timer
}

type directConn struct {
	*http.ClientConn
	conn *bodyConn
	used bool // since the last sweep
}

// RoundTrip closes the request's body when its context ends.
func (c *directConn) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Body == nil {
		return c.ClientConn.RoundTrip(request)
	}
	c.conn.carry(request.Body)
	stop := context.AfterFunc(request.Context(), func() { _ = request.Body.Close() })
	request.Body = directBody{request.Body, c.conn}
	answer, err := c.ClientConn.RoundTrip(request)
	if err != nil {
		stop()
	}
	return answer, err
}

// directBody is a body whose pieces stay as large as they are written: the HTTP/1 client cuts them
// into 32 KiB and sends each by itself, in three writes.
type directBody struct {
	io.ReadCloser
	conn *bodyConn
}

// envelope is how many bytes stand before a message: they are written before it, by themselves.
const envelope = 5

// headroom is the room for that and for the message's own frame around the data.
const headroom = 64

// WriteTo implements io.WriterTo. What comes slowly, or not at all, holds little. A message goes
// out together with what stands before it, so that the guest is woken once.
func (b directBody) WriteTo(to io.Writer) (total int64, err error) {
	buffer, size := make([]byte, headroom+firstData), frameSize{}
	defer size.release()
	for {
		n, err := b.Read(buffer)
		if n == envelope && err == nil {
			var more int
			more, err = b.Read(buffer[n:])
			n += more
		}
		if n > 0 {
			written, err := b.send(to, buffer[:n])
			if total += int64(written); err != nil {
				return total, err
			}
		}
		switch {
		case err == io.EOF: //nolint:errorlint // a failure may wrap it
			return total, nil
		case err != nil:
			return total, err
		}
		if data := n - headroom; n == len(buffer) && size.grow(&data) {
			buffer = make([]byte, headroom+data)
		}
	}
}

// send sends a piece as one chunk, in one write.
func (b directBody) send(to io.Writer, piece []byte) (int, error) {
	b.conn.Hold()
	n, err := to.Write(piece)
	return n, errors.Join(err, b.conn.Release())
}

// bodyConn closes the body that it carries when it is closed. An HTTP/1 client does not: it waits
// for whoever writes the body, who may wait for whoever reads the answer.
type bodyConn struct {
	Gather
	mu     sync.Mutex
	body   io.Closer
	closed bool
}

func (c *bodyConn) carry(body io.Closer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.body = body
	if c.closed {
		_ = body.Close()
	}
}

// Close implements net.Conn.
func (c *bodyConn) Close() error {
	err := c.Conn.Close()
	c.mu.Lock()
	body := c.body
	c.body, c.closed = nil, true
	c.mu.Unlock()
	if body != nil {
		_ = body.Close()
	}
	return err
}

// mayGoDirect reports whether a request to this URL path works over HTTP/1: both directions at
// once do not. Control calls share one connection, so that it is watched.
func mayGoDirect(path string) bool {
	return !IsControl(path) && path != guestv1connect.PortServiceConnectProcedure
}

// reserveDirect gives a direct connection for one request; nil: there is none.
func (t *Transport) reserveDirect(ctx context.Context) *directConn {
	d := &t.direct
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.DialDirect == nil || d.none || t.life.Err() != nil {
		return nil
	}
	d.open = slices.DeleteFunc(d.open, func(c *directConn) bool { return finished(c.ClientConn) })
	for _, conn := range d.open {
		if conn.Reserve() == nil {
			conn.used = true
			return conn
		}
	}
	if len(d.open)+d.dialing >= mostDirect {
		return nil
	}
	d.dialing++
	t.mu.Unlock()
	conn, err := t.dialDirect(ctx)
	t.mu.Lock()
	d.dialing--
	if err != nil {
		d.none = stacyvm.CodeOf(err) == stacyvm.CodeUnsupported
		return nil
	}
	if t.life.Err() != nil || conn.Reserve() != nil {
		_ = conn.Close()
		return nil
	}
	d.open = append(d.open, conn)
	if d.sweep == nil {
		d.sweep = time.AfterFunc(sweepDirect, t.sweepDirect)
	}
	return conn
}

func (t *Transport) dialDirect(ctx context.Context) (*directConn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialWithin)
	defer cancel()
	defer context.AfterFunc(t.life, cancel)()
	raw, err := t.DialDirect(ctx)
	if err != nil {
		return nil, err
	}
	conn := &bodyConn{Gather: Gather{Conn: raw}}
	transport := &http.Transport{
		DialContext:            func(context.Context, string, string) (net.Conn, error) { return conn, nil },
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
		ReadBufferSize:         directBuffer,
		WriteBufferSize:        directBuffer,
	}
	client, err := transport.NewClientConn(ctx, "http", "guest:80")
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &directConn{ClientConn: client, conn: conn, used: true}, nil
}

// sweepDirect closes what carried nothing for a while.
func (t *Transport) sweepDirect() {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := &t.direct
	d.open = slices.DeleteFunc(d.open, func(c *directConn) bool {
		idle := !c.used && c.InFlight() == 0
		c.used = false
		if idle {
			_ = c.Close()
		}
		return idle
	})
	d.sweep = nil
	if len(d.open) > 0 {
		d.sweep = time.AfterFunc(sweepDirect, t.sweepDirect)
	}
}

// closeDirect cuts all of them: the guest gives no sign of life, or the transport closes.
func (t *Transport) closeDirect() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, conn := range t.direct.open {
		_ = conn.Close()
	}
	t.direct.open = nil
	if t.direct.sweep != nil {
		t.direct.sweep.Stop()
		t.direct.sweep = nil
	}
}
