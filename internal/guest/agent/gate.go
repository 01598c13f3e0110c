package agent

import (
	"context"
	"net"
	"sync"
	"time"
)

const (
	// strangerTime is how long a connection may stay without showing the secret.
	strangerTime = 5 * time.Second
	// mostStrangers is how many may at a time. One more makes any other go: whoever fills the places keeps the host out
	// only with as many connections within the milliseconds that it needs.
	mostStrangers = 64
)

// gate limits what can be done with the port by those who do not know the secret.
type gate struct {
	net.Listener
	mu        sync.Mutex
	strangers map[*stranger]struct{}
}

// stranger is a connection that has not shown the secret, and later one that has.
type stranger struct {
	net.Conn
	gate  *gate
	timer *time.Timer
}

type strangerKey struct{}

// Accept admits a connection, for now.
func (g *gate) Accept() (net.Conn, error) {
	conn, err := g.Listener.Accept()
	if err != nil {
		return nil, err
	}
	s := &stranger{Conn: conn, gate: g}
	g.mu.Lock()
	s.timer = time.AfterFunc(strangerTime, func() { s.Close() })
	var victim *stranger
	if len(g.strangers) >= mostStrangers {
		for victim = range g.strangers { // maps are walked in random order
			break
		}
	}
	if g.strangers == nil {
		g.strangers = map[*stranger]struct{}{}
	}
	g.strangers[s] = struct{}{}
	g.mu.Unlock()
	if victim != nil {
		victim.Close()
	}
	return s, nil
}

// admit notes that the connection of a request has shown the secret.
func admit(ctx context.Context) {
	if s, ok := ctx.Value(strangerKey{}).(*stranger); ok {
		s.leave()
	}
}

// leave ends the connection's time as a stranger.
func (s *stranger) leave() {
	s.gate.mu.Lock()
	defer s.gate.mu.Unlock()
	s.timer.Stop()
	delete(s.gate.strangers, s)
}

// Close closes the connection.
func (s *stranger) Close() error {
	s.leave()
	return s.Conn.Close()
}
