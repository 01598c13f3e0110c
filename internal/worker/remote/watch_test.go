package remote

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/worker"
)

// watching is a client whose connections lead to peer.
func watching(t *testing.T, peer func(ctx context.Context) (net.Conn, error)) *Client {
	t.Helper()
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return peer(ctx) }}
	t.Cleanup(transport.CloseIdleConnections)
	return &Client{base: "http://worker", control: transport}
}

// TestSilenceEndsACall: a call to a worker without a sign of life ends after one question for it.
func TestSilenceEndsACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := watching(t, func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() })
		began := time.Now()
		ctx, _, end := c.watch(t.Context())
		defer end()
		<-ctx.Done()
		if took := time.Since(began); took != doubtAfter+aliveWithin || !errors.Is(context.Cause(ctx), worker.ErrSilent) {
			t.Errorf("after %s: %v", took, context.Cause(ctx))
		}
	})
}

// TestSignsOfLifeKeepACall: a worker that is slow is asked again and again, until it answers.
func TestSignsOfLifeKeepACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		signs := 0
		c := watching(t, func(context.Context) (net.Conn, error) {
			near, far := net.Pipe()
			go func() {
				defer far.Close()
				for requests := bufio.NewReader(far); ; signs++ {
					if _, err := http.ReadRequest(requests); err != nil {
						return
					}
					_, _ = io.WriteString(far, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
				}
			}()
			return near, nil
		})
		ctx, answered, end := c.watch(t.Context())
		defer end()
		const asked = 30
		time.Sleep(asked*doubtAfter + time.Millisecond)
		synctest.Wait()
		if signs != asked || ctx.Err() != nil {
			t.Errorf("%d signs, %v", signs, context.Cause(ctx))
		}
		answered()
		time.Sleep(time.Hour)
		if signs != asked || ctx.Err() != nil {
			t.Errorf("after its answer: %d signs, %v", signs, context.Cause(ctx))
		}
	})
}
