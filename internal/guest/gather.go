package guest

import "net"

// mostHeld bounds what a Gather holds of writes, in bytes.
const mostHeld = 16 << 10

// Gather is a connection whose small writes can wait for the next one. An HTTP/1 chunk is three
// writes, and each of them is a system call and wakes the other side. One goroutine at a time may
// write.
type Gather struct {
	net.Conn
	holding bool
	held    []byte
}

// Hold begins a message: what is small waits for what follows.
func (g *Gather) Hold() { g.holding = true }

// Release ends a message of a chunked body. The end of a chunk alone goes on waiting: the other
// side needs it no sooner than what follows, and a body always ends with more than that.
func (g *Gather) Release() error {
	g.holding = false
	if len(g.held) == 0 || string(g.held) == "\r\n" {
		return nil
	}
	held := g.held
	g.held = nil
	_, err := g.Conn.Write(held)
	return err
}

// Write implements net.Conn.
func (g *Gather) Write(data []byte) (int, error) {
	switch {
	case g.holding && len(g.held)+len(data) <= mostHeld:
		g.held = append(g.held, data...)
		return len(data), nil
	case len(g.held) == 0:
		return g.Conn.Write(data)
	}
	before := int64(len(g.held))
	pieces := net.Buffers{g.held, data}
	n, err := pieces.WriteTo(g.Conn)
	g.held = nil
	return int(max(0, n-before)), err
}
