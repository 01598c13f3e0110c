package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// listen starts a program on a loopback port that serves each connection with serve.
func listen(t *testing.T, address string, serve func(*net.TCPConn)) uint16 {
	t.Helper()
	listener, err := net.Listen("tcp", address)
	if err != nil {
		testneed.Missing(t, "ipv6", err.Error()) // 127.0.0.1 is everywhere
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serve(conn.(*net.TCPConn))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return uint16(listener.Addr().(*net.TCPAddr).Port)
}

func TestPortsCarryBothDirections(t *testing.T) {
	_, c, _ := serveServices(t, t.TempDir())
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		port := listen(t, address, func(conn *net.TCPConn) {
			all, _ := io.ReadAll(conn) // until the caller's end
			_, _ = conn.Write([]byte(strings.ToUpper(string(all))))
		})
		ctx, cancel := context.WithCancel(t.Context())
		conn, err := c.Connect(ctx, port)
		cancel() // bounds the opening alone
		must(t, err)
		sent := strings.Repeat("many bytes ", 50_000)
		go func() {
			_, _ = io.WriteString(conn, sent)
			_ = conn.(interface{ CloseWrite() error }).CloseWrite()
		}()
		got, err := io.ReadAll(conn)
		if err != nil || string(got) != strings.ToUpper(sent) {
			t.Errorf("%s: %d of %d bytes, %v", address, len(got), len(sent), err)
		}
		must(t, conn.Close())
	}
}

func TestThePeerMayEndFirst(t *testing.T) {
	_, c, _ := serveServices(t, t.TempDir())
	heard := make(chan string, 1)
	port := listen(t, "127.0.0.1:0", func(conn *net.TCPConn) {
		_, _ = conn.Write([]byte("that is all"))
		_ = conn.CloseWrite()
		all, _ := io.ReadAll(conn)
		heard <- string(all)
	})
	conn, err := c.Connect(t.Context(), port)
	must(t, err)
	if got, err := io.ReadAll(conn); err != nil || string(got) != "that is all" {
		t.Errorf("%q, %v", got, err)
	}
	_, err = io.WriteString(conn, "and still I speak")
	must(t, err)
	must(t, conn.Close()) // what was written arrives all the same
	if got := <-heard; got != "and still I speak" {
		t.Errorf("heard %q", got)
	}
}

func TestABrokenConnectionIsNoEnd(t *testing.T) {
	_, c, _ := serveServices(t, t.TempDir())
	port := listen(t, "127.0.0.1:0", func(conn *net.TCPConn) {
		_, _ = conn.Read(make([]byte, 1))
		_ = conn.SetLinger(0)
	})
	conn, err := c.Connect(t.Context(), port)
	must(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("x"))
	must(t, err)
	_, err = io.ReadAll(conn)
	wantFailure(t, "read after a reset", err, stacyvm.CodeUnavailable)
}

func TestNothingListens(t *testing.T) {
	_, c, _ := serveServices(t, t.TempDir())
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	port := uint16(listener.Addr().(*net.TCPAddr).Port)
	must(t, listener.Close())
	_, err = c.Connect(t.Context(), port)
	wantFailure(t, "connect", err, stacyvm.CodeUnavailable)
	_, err = c.Connect(t.Context(), 0)
	wantFailure(t, "port 0", err, stacyvm.CodeInvalid)
}

func TestPortConnectionsHaveDeadlines(t *testing.T) {
	_, c, _ := serveServices(t, t.TempDir())
	release := make(chan struct{})
	port := listen(t, "127.0.0.1:0", func(*net.TCPConn) { <-release })
	defer close(release)
	conn, err := c.Connect(t.Context(), port)
	must(t, err)
	must(t, conn.SetReadDeadline(time.Now().Add(10*time.Millisecond)))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read at its deadline: %v", err)
	}
	must(t, conn.Close())
	if _, err := conn.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after close: %v", err)
	}
}
