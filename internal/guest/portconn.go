package guest

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// linger is how long a connection that was closed may take to deliver what was written to it.
const linger = 5 * time.Second

// portConn is a TCP connection inside a sandbox as a net.Conn. One pipe for each direction gives
// it deadlines and half-closing.
type portConn struct {
	remote         *net.TCPAddr // inside the sandbox
	in, out        net.Conn     // the user's ends
	received, sent net.Conn     // the stream's ends
	expire         func()       // cuts the stream

	mu      sync.Mutex
	failure error // why reading ended when the peer did not end it
}

func newPortConn(port uint16, expire func()) *portConn {
	c := &portConn{remote: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)}, expire: expire}
	c.in, c.received = net.Pipe()
	c.out, c.sent = net.Pipe()
	return c
}

func (c *portConn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failure = err
}

// Read implements net.Conn. A connection that broke ends with an error, not with io.EOF.
func (c *portConn) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	if errors.Is(err, io.EOF) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.failure != nil {
			return n, c.failure
		}
	}
	return n, closed(err)
}

// Write implements net.Conn.
func (c *portConn) Write(p []byte) (int, error) {
	n, err := c.out.Write(p)
	return n, closed(err)
}

// closed gives the error of package net for a closed pipe.
func closed(err error) error {
	if errors.Is(err, io.ErrClosedPipe) {
		return net.ErrClosed
	}
	return err
}

// CloseWrite tells the peer that nothing more comes; reading goes on.
func (c *portConn) CloseWrite() error { return c.out.Close() }

// Close ends both directions. What was written is still delivered, in the background and for a
// short while.
func (c *portConn) Close() error {
	time.AfterFunc(linger, c.expire)
	_ = c.out.Close()
	return c.in.Close()
}

// LocalAddr implements net.Conn; the address has no meaning outside the sandbox.
func (c *portConn) LocalAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }

// RemoteAddr implements net.Conn: the port inside the sandbox.
func (c *portConn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *portConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *portConn) SetReadDeadline(t time.Time) error { return c.in.SetReadDeadline(t) }

// SetWriteDeadline implements net.Conn.
func (c *portConn) SetWriteDeadline(t time.Time) error { return c.out.SetWriteDeadline(t) }
