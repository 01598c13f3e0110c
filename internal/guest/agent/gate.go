package agent

import (
	"context"
	"net"
	"sync"
	"time"
)

const (
	// secretWithin is how long a connection may stay without showing the secret.
	secretWithin = 5 * time.Second
	// mostWaiting is how many may at a time. One more makes any other go: whoever fills the places
	// keeps the host out only with as many connections within the milliseconds that it needs.
	mostWaiting = 64
)

// gate limits what can be done with the port by those who do not know the secret.
type gate struct {
	net.Listener
	mu      sync.Mutex
	waiting map[*unauthenticated]struct{}
}

// unauthenticated is a connection that has not shown the secret, and later one that has.
type unauthenticated struct {
	net.Conn
	gate  *gate
	timer *time.Timer
}

type connectionKey struct{}

// Accept admits a connection, for now.
func (g *gate) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	s := &unauthenticated{Conn: conn, gate: g}
	g.mu.Lock()
	s.timer = time.AfterFunc(secretWithin, func() { s.Close() })
	var victim *unauthenticated
	if len(g.waiting) >= mostWaiting {
		for victim = range g.waiting { // maps are walked in random order
			break
		}
	}
	if g.waiting == nil {
		g.waiting = map[*unauthenticated]struct{}{}
	}
	g.waiting[s] = struct{}{}
	g.mu.Unlock()
	if victim != nil {
		victim.Close()
	}
	return s, nil
}

// admit notes that the connection of a request has shown the secret.
func admit(ctx context.Context) {
	if s, ok := ctx.Value(connectionKey{}).(*unauthenticated); ok {
		s.leave()
	}
}

// leave ends the connection's time without the secret.
func (s *unauthenticated) leave() {
	s.gate.mu.Lock()
	defer s.gate.mu.Unlock()
	s.timer.Stop()
	delete(s.gate.waiting, s)
}

// Close closes the connection.
func (s *unauthenticated) Close() error {
	s.leave()
	return s.Conn.Close()
}
