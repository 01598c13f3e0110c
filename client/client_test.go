package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"

	"github.com/stacyvm/stacyvm/client"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNewRefusesWhatIsNoAddress(t *testing.T) {
	for _, address := range []string{"", "localhost:7423", "ftp://host", "http://", "://"} {
		if _, err := client.New(address, client.Options{}); err == nil {
			t.Errorf("New(%q) succeeded", address)
		}
	}
}

func TestNoServer(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	_ = listener.Close()
	c, err := client.New("http://"+address, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Sandboxes(context.Background()); !errors.Is(err, client.ErrNoServer) {
		t.Errorf("error = %v, want ErrNoServer", err)
	}
}

// TestABrokenConnectionInPlainWords: neither addresses nor the transport's own words.
func TestABrokenConnectionInPlainWords(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		panic(http.ErrAbortHandler)
	}))
	defer server.Close()
	c, err := client.New(server.URL, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = c.Destroy(t.Context(), "sb-0123456789abcdef01234567")
	if err == nil || strings.Contains(err.Error(), "127.0.0.1") || strings.Contains(err.Error(), "EOF") {
		t.Error(err)
	}
}

func TestErrorKeepsWhatTheServerSaid(t *testing.T) {
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Request-ID", "r-1")
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = w.Write([]byte(`{"code":"RESOURCE_LIMIT","message":"ttl: at most 24h"}`))
	}))
	_, err := c.Spawn(context.Background(), client.SpawnRequest{})
	var refusal *client.Error
	if !errors.As(err, &refusal) {
		t.Fatalf("error = %v, want *client.Error", err)
	}
	if refusal.Status != 429 || refusal.Code != client.CodeResourceLimit || refusal.RequestID != "r-1" || refusal.Message != "ttl: at most 24h" {
		t.Errorf("error = %+v", refusal)
	}
}

func TestErrorOfAProxy(t *testing.T) {
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "<html>teapot</html>", http.StatusTeapot)
	}))
	if _, err := c.Providers(context.Background()); client.CodeOf(err) != "I'M_A_TEAPOT" {
		t.Errorf("code = %q", client.CodeOf(err))
	}
}

// dying answers the first requests by breaking the connection after it has read them.
func dying(times int, then http.HandlerFunc) http.Handler {
	var mu sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		times--
		dies := times >= 0
		mu.Unlock()
		if dies {
			_, _ = io.Copy(io.Discard, r.Body)
			panic(http.ErrAbortHandler)
		}
		then(w, r)
	})
}

func TestSpawnIsRepeatedWithOneKey(t *testing.T) {
	var mu sync.Mutex
	keys := map[string]int{}
	inner := dying(2, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write([]byte(`{"id":"sb-1","state":"running"}`))
	})
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		keys[r.Header.Get("Idempotency-Key")]++
		mu.Unlock()
		inner.ServeHTTP(w, r)
	}))
	sandbox, err := c.Spawn(context.Background(), client.SpawnRequest{})
	if err != nil || sandbox.ID != "sb-1" {
		t.Fatalf("got %+v, %v", sandbox, err)
	}
	if len(keys) != 1 || keys[""] != 0 {
		t.Errorf("keys %v, want one that is not empty", keys)
	}
}

func TestExecIsNotRepeated(t *testing.T) {
	var requests atomic.Int32
	c := newClient(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		_, _ = io.Copy(io.Discard, r.Body)
		panic(http.ErrAbortHandler)
	}))
	if _, err := c.Exec(context.Background(), "sb-1", client.ExecRequest{Command: "true"}); err == nil {
		t.Error("no error")
	}
	if n := requests.Load(); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

func TestInputArrivesOnceAndInOrder(t *testing.T) {
	var mu sync.Mutex
	var received []byte
	closed := false
	requests := 0
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			Data   []byte `json:"data_base64"`
			Offset uint64 `json:"offset"`
			Close  bool   `json:"close"`
		}
		_ = json.NewDecoder(r.Body).Decode(&body)
		mu.Lock()
		defer mu.Unlock()
		if fresh := uint64(len(received)) - body.Offset; fresh <= uint64(len(body.Data)) {
			received = append(received, body.Data[fresh:]...)
		}
		closed = closed || body.Close
		requests++
		if requests%2 == 1 {
			panic(http.ErrAbortHandler) // taken, but the answer is lost
		}
		_, _ = w.Write([]byte(`{"received":0}`))
	}))
	want := bytes.Repeat([]byte("0123456789abcdef"), 60_000)
	input := c.Input("sb-1", "p1", 0)
	for _, part := range [][]byte{want[:5], want[5:700_001], want[700_001:]} {
		if err := input.Write(context.Background(), part); err != nil {
			t.Fatal(err)
		}
	}
	if err := input.Close(context.Background()); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(received, want) || !closed {
		t.Errorf("received %d bytes of %d, closed %v", len(received), len(want), closed)
	}
}

func TestHeadersAndPaths(t *testing.T) {
	var got *http.Request
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = r
		_, _ = w.Write([]byte(`{}`))
	}))
	defer server.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	c, err := client.New(server.URL+"/", client.Options{APIKey: "k", AdminKey: "a", UserID: "u", HTTPClient: &http.Client{Transport: transport}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stat(context.Background(), "sb/../1", "/a b?c"); err != nil {
		t.Fatal(err)
	}
	if want := "/api/v1/sandboxes/sb%2F..%2F1/files/stat?path=%2Fa+b%3Fc"; got.RequestURI != want {
		t.Errorf("request %s, want %s", got.RequestURI, want)
	}
	for name, want := range map[string]string{"X-API-Key": "k", "X-Admin-API-Key": "a", "X-User-ID": "u"} {
		if got.Header.Get(name) != want {
			t.Errorf("%s = %q, want %q", name, got.Header.Get(name), want)
		}
	}
}

func TestBrokenDownloadIsAnError(t *testing.T) {
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, 100_000))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}))
	body, err := c.Download(context.Background(), "sb-1", "/x")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if _, err := io.Copy(io.Discard, body); err == nil {
		t.Error("a cut file was read without an error")
	}
}
