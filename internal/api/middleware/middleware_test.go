package middleware_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/stacyvm/stacyvm/internal/api/middleware"
	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fail answers with the error's code as the body.
func fail(w http.ResponseWriter, _ *http.Request, err error) {
	w.WriteHeader(http.StatusTeapot)
	_, _ = fmt.Fprint(w, stacyvm.CodeOf(err))
}

func ok(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }

func ofClients(*http.Request) auth.Kind { return auth.KindClient }

func probe(r *http.Request) bool { return r.URL.Path == "/probe" }

func ask(handler http.Handler, change func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodGet, "http://localhost/", nil)
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w
}

func TestLimitRefillsAndNamesTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		keys := auth.Authenticators{auth.NewKeys("key", "", false)}
		handler := middleware.Chain(http.HandlerFunc(ok), middleware.Identify(keys, ofClients), middleware.Limit(60, 3, probe, fail))
		from := func(peer, key string) func(*http.Request) {
			return func(r *http.Request) {
				r.RemoteAddr = peer
				r.Header.Set("X-API-Key", key)
				r.Header.Set("X-User-ID", time.Now().String()) // never part of the key
			}
		}
		for i := range 3 {
			w := ask(handler, from("10.0.0.1:1", ""))
			if w.Body.String() != "ok" || w.Header().Get("X-RateLimit-Limit") != "3" || w.Header().Get("X-RateLimit-Remaining") != fmt.Sprint(2-i) {
				t.Fatalf("request %d: %s %v", i, w.Body, w.Header())
			}
		}
		w := ask(handler, from("10.0.0.1:2", "")) // another port of the same peer
		if w.Body.String() != string(stacyvm.CodeLimit) || w.Header().Get("Retry-After") != "1" {
			t.Fatalf("over the limit: %s %v", w.Body, w.Header())
		}
		if w := ask(handler, func(r *http.Request) { from("10.0.0.1:1", "")(r); r.URL.Path = "/probe" }); w.Body.String() != "ok" {
			t.Error("a probe is limited")
		}
		if w := ask(handler, from("10.0.0.2:1", "")); w.Body.String() != "ok" {
			t.Error("another peer is limited too")
		}
		for i := range 3 { // one credential, whatever its peer
			if w := ask(handler, from(fmt.Sprintf("10.0.1.%d:1", i), "key")); w.Body.String() != "ok" {
				t.Fatalf("request %d with the key: %s", i, w.Body)
			}
		}
		if w := ask(handler, from("10.0.1.9:1", "key")); w.Body.String() != string(stacyvm.CodeLimit) {
			t.Error("the credential is not limited")
		}
		time.Sleep(time.Second) // the bubble's clock: one token is back
		if w := ask(handler, from("10.0.0.1:1", "")); w.Body.String() != "ok" {
			t.Errorf("after a second: %s", w.Body)
		}
	})
}

func TestLimitForgetsThePeerOfLongAgo(t *testing.T) {
	handler := middleware.Chain(http.HandlerFunc(ok), middleware.Limit(1, 1, probe, fail))
	peer := func(n int) func(*http.Request) {
		return func(r *http.Request) { r.RemoteAddr = fmt.Sprintf("10.%d.%d.%d:1", n>>16, n>>8&255, n&255) }
	}
	ask(handler, peer(0))
	if w := ask(handler, peer(0)); w.Body.String() == "ok" {
		t.Fatal("not limited")
	}
	for n := range 10_000 {
		ask(handler, peer(n+1))
	}
	if w := ask(handler, peer(0)); w.Body.String() != "ok" {
		t.Error("the limiter keeps more than its bound")
	}
}

func TestRequestIDs(t *testing.T) {
	var seen string
	handler := middleware.Chain(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen = middleware.RequestID(r.Context()) }),
		middleware.Request(slog.New(slog.DiscardHandler), fail))
	for given, kept := range map[string]bool{"a.b_c-1": true, strings.Repeat("x", 64): true, "": false, strings.Repeat("x", 65): false, "a b": false, "<script>": false, "é": false} {
		w := ask(handler, func(r *http.Request) { r.Header.Set("X-Request-ID", given) })
		answer := w.Header().Get("X-Request-ID")
		if answer != seen || (answer == given) != kept || answer == "" {
			t.Errorf("given %q: %q, seen %q", given, answer, seen)
		}
	}
}

func TestPanics(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	panicking := func(cause any, begin bool) http.Handler {
		return middleware.Chain(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if begin {
				_, _ = io.WriteString(w, "half")
			}
			panic(cause)
		}), middleware.Request(log, fail))
	}
	if w := ask(panicking("bug", false), nil); w.Body.String() != string(stacyvm.CodeInternal) {
		t.Errorf("answer %s", w.Body)
	}
	for name, handler := range map[string]http.Handler{
		"begun": panicking("bug", true), "aborted": panicking(http.ErrAbortHandler, false),
		"client left": panicking(&net.OpError{Op: "write", Err: errors.New("broken pipe")}, false),
	} {
		func() {
			defer func() {
				if cause, _ := recover().(error); !errors.Is(cause, http.ErrAbortHandler) {
					t.Errorf("%s: panic %v, want ErrAbortHandler", name, cause)
				}
			}()
			ask(handler, nil)
		}()
	}
}

// pipes is a listener whose connections live in memory, so that their deadlines follow a bubble's
// clock.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func newPipes() *pipes { return &pipes{make(chan net.Conn), make(chan struct{})} }

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{Name: "pipe", Net: "unix"} }

func (p *pipes) dial() net.Conn {
	here, there := net.Pipe()
	p.conns <- there
	return here
}

// serve runs a handler in a bubble and gives a connection to it.
func serve(t *testing.T, handler http.Handler) net.Conn {
	listener := newPipes()
	server := &http.Server{Handler: handler}
	served := make(chan struct{})
	go func() { defer close(served); _ = server.Serve(listener) }()
	conn := listener.dial()
	t.Cleanup(func() { _ = conn.Close(); _ = server.Close(); <-served })
	return conn
}

func TestASlowBodyIsNotWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var code stacyvm.Code
		var took time.Duration
		conn := serve(t, middleware.Chain(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			began := time.Now()
			_, err := io.Copy(io.Discard, r.Body)
			code, took = stacyvm.CodeOf(err), time.Since(began)
		}), middleware.Body(fail)))
		_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12")
		time.Sleep(20 * time.Second)
		_, _ = io.WriteString(conn, "34") // progress renews the time
		_, _ = io.Copy(io.Discard, conn)
		if code != stacyvm.CodeTimeout || took != 50*time.Second {
			t.Errorf("code %q after %v, want %q after 50s", code, took, stacyvm.CodeTimeout)
		}
	})
}

func TestABodyThatNobodyReadsHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := serve(t, middleware.Chain(http.HandlerFunc(ok), middleware.Body(fail)))
		began := time.Now()
		_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12")
		_, _ = io.Copy(io.Discard, conn)
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("the connection was held for %v", took)
		}
	})
}

func TestABodyThatBreaksOffIsNoEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := make(chan error, 1)
		conn := serve(t, middleware.Chain(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, err := io.ReadAll(r.Body)
			done <- err
		}), middleware.Body(fail)))
		_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n12")
		_ = conn.Close()
		if err := <-done; stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
			t.Errorf("error %v", err)
		}
	})
}

func TestADeadlineOfTheBodyDoesNotEndTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn := serve(t, middleware.Chain(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			select {
			case <-r.Context().Done():
				_, _ = io.WriteString(w, "cancelled")
			case <-time.After(time.Hour):
				_, _ = io.WriteString(w, "ok")
			}
		}), middleware.Request(slog.New(slog.DiscardHandler), fail), middleware.Body(fail)))
		_, _ = io.WriteString(conn, "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n12")
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if text, _ := io.ReadAll(answer.Body); string(text) != "ok" {
			t.Errorf("answer %q", text)
		}
	})
}

func TestAClientThatReadsNothingIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		type end struct {
			err  error
			took time.Duration
		}
		ended := make(chan end, 1)
		conn := serve(t, middleware.Chain(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			for {
				began := time.Now()
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					ended <- end{err, time.Since(began)}
					return
				}
			}
		}), middleware.Request(slog.New(slog.DiscardHandler), fail)))
		_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
		for range 10 { // slow, but it reads
			time.Sleep(middleware.Stall - time.Second)
			_, _ = io.ReadFull(conn, make([]byte, 128<<10))
		}
		if e := <-ended; e.took != middleware.Stall {
			t.Errorf("cut after %v with %v, want %v", e.took, e.err, middleware.Stall)
		}
	})
}
