package middleware_test

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/api/middleware"
)

// TestConnectionsOfOneAddress: one address cannot take every connection, one too many of them is
// answered, and a connection that is closed makes room.
func TestConnectionsOfOneAddress(t *testing.T) {
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(ok), ReadHeaderTimeout: time.Minute}
	served := make(chan error, 1)
	go func() {
		served <- server.Serve(middleware.Connections(inner, 4, middleware.Refusal("1", `{"code":"UNAVAILABLE"}`)))
	}()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	ask := func(from string) (*http.Response, net.Conn) {
		t.Helper()
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
		conn, err := dialer.Dial("tcp", inner.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = answer.Body.Close() })
		return answer, conn
	}
	var open net.Conn
	for range 3 { // they stay open
		answer, conn := ask("127.0.0.1")
		if open = conn; answer.StatusCode != http.StatusOK {
			t.Fatalf("%+v", answer)
		}
	}
	refused, _ := ask("127.0.0.1")
	if refused.StatusCode != http.StatusServiceUnavailable || refused.Header.Get("Retry-After") != "1" || !refused.Close {
		t.Errorf("a fourth of 4 connections: %+v", refused)
	}
	if answer, _ := ask("127.0.0.2"); answer.StatusCode != http.StatusOK {
		t.Errorf("another address: %+v", answer)
	}
	if answer, _ := ask("127.0.0.3"); answer.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a fifth of 4 connections: %+v", answer)
	}
	_ = open.Close()
	for deadline := time.Now().Add(10 * time.Second); ; {
		answer, _ := ask("127.0.0.3")
		if answer.StatusCode == http.StatusOK {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("a closed connection makes no room")
		}
	}
}
