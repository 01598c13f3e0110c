package middleware

import (
	"io"
	"net"
	"net/http"
	"time"

	"github.com/stacyvm/stacyvm/internal/budget"
)

const (
	// maxRefusals bounds the connections that are being refused with words; more are closed at
	// once.
	maxRefusals = 64
	// refuseWithin bounds one of them.
	refuseWithin = time.Second
)

// Connections bounds the connections of a listener: all of them, and those of one address (of IPv6
// one network of 64 bits, as a machine has all of it) to three quarters, so that others find room.
// One more is sent the refusal and closed; with nil, as under TLS, where nobody could read it, it
// is closed at once.
func Connections(listener net.Listener, most int, refusal []byte) net.Listener {
	return &boundedListener{
		Listener: listener, most: max(1, most-most/4), refusal: refusal,
		slots: budget.NewSlots(most), refusing: make(chan struct{}, maxRefusals),
	}
}

// Refusal is an answer to a request that nobody has read, in the form of every other.
func Refusal(retryAfter, body string) []byte {
	return []byte(
		"HTTP/1.1 503 " + http.StatusText(
			http.StatusServiceUnavailable,
		) + "\r\nContent-Type: application/json\r\nRetry-After: " +
			retryAfter + "\r\nConnection: close\r\n\r\n" + body + "\n",
	)
}

type boundedListener struct {
	net.Listener
	most     int // of one address
	refusal  []byte
	slots    *budget.Slots
	refusing chan struct{}
}

// Accept implements net.Listener.
func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		release, err := l.slots.Acquire(budget.Quota{Name: peerOf(conn.RemoteAddr().String()), Most: l.most})
		if err == nil {
			return &boundedConn{Conn: conn, release: release}, nil
		}
		l.refuse(conn)
	}
}

// refuse does not hold up the listener.
func (l *boundedListener) refuse(conn net.Conn) {
	select {
	case l.refusing <- struct{}{}:
	default:
		_ = conn.Close()
		return
	}
	go func() {
		defer func() { <-l.refusing }()
		defer conn.Close()
		if l.refusal == nil {
			return
		}
		_ = conn.SetDeadline(time.Now().Add(refuseWithin))
		if _, err := conn.Write(l.refusal); err != nil {
			return
		}
		if half, ok := conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
			// a close with unread bytes would take the answer away
			_, _ = io.Copy(io.Discard, io.LimitReader(conn, 64<<10))
		}
	}()
}

// boundedConn gives its slot back when it is closed.
type boundedConn struct {
	net.Conn
	release func()
}

// Close implements net.Conn.
func (c *boundedConn) Close() error {
	err := c.Conn.Close()
	c.release()
	return err
}
