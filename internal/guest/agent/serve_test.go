package agent

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
)

// timed notes the limits that are put on its reads.
type timed struct {
	net.Conn
	mu     sync.Mutex
	limits []time.Time
}

func (c *timed) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !t.IsZero() {
		c.limits = append(c.limits, t)
	}
	return c.Conn.SetReadDeadline(t)
}

// TestHostMayBeSilentAtFirst: no limit of time runs on the host's own connection before its first
// request. A host that came back after some seconds found it closed.
func TestHostMayBeSilentAtFirst(t *testing.T) {
	h := newHost(t)
	ours, theirs, err := socketPair()
	if err != nil {
		t.Fatal(err)
	}
	watched := &timed{Conn: theirs}
	ctx, cancel := context.WithCancel(t.Context())
	var served sync.WaitGroup
	served.Go(func() { _ = h.ServeConn(ctx, watched) })
	client := httpClient(func(context.Context, string, string) (net.Conn, error) { return ours, nil })
	system := guestv1connect.NewSystemServiceClient(client, "http://guest", connect.WithInterceptors(bearer(h.secret)))
	if _, err := system.Ping(t.Context(), connect.NewRequest(&guestv1.PingRequest{})); err != nil {
		t.Error(err)
	}
	cancel()
	served.Wait()
	client.CloseIdleConnections()
	watched.mu.Lock()
	defer watched.mu.Unlock()
	if len(watched.limits) > 0 {
		t.Errorf("reads were limited to %v", watched.limits)
	}
}
