package remote

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// connections are those that a client has open, to be cut when it closes.
type connections struct {
	dialer net.Dialer

	mu     sync.Mutex
	closed bool
	open   map[*connection]bool
}

func newConnections() *connections {
	return &connections{dialer: net.Dialer{Timeout: dialWithin, Control: refuseAddress}, open: map[*connection]bool{}}
}

// refuseAddress keeps the credential from what a worker's name may resolve to, and no worker is.
func refuseAddress(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err == nil && stacyvm.NoWorkerAddress(at.Addr()) {
		return stacyvm.Errorf(stacyvm.CodeUnavailable, "the worker's name leads to %s, where no worker is", at.Addr())
	}
	return nil
}

// connection forgets itself when it is closed.
type connection struct {
	net.Conn
	of *connections
}

// Close implements net.Conn.
func (c *connection) Close() error {
	c.of.mu.Lock()
	delete(c.of.open, c)
	c.of.mu.Unlock()
	return c.Conn.Close()
}

func (c *connections) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := c.dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	made := &connection{conn, c}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		_ = conn.Close()
		return nil, stacyvm.Errorf(stacyvm.CodeUnavailable, "the connection to the worker is closed")
	}
	c.open[made] = true
	return made, nil
}

func (c *connections) close() {
	c.mu.Lock()
	c.closed = true
	cut := c.open
	c.open = map[*connection]bool{}
	c.mu.Unlock()
	for conn := range cut {
		_ = conn.Conn.Close()
	}
}
