package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
)

func TestScopes(t *testing.T) {
	paths := map[string]Scope{
		guestv1connect.ProcessServiceRunProcedure: ScopeExec, guestv1connect.PortServiceConnectProcedure: ScopeExec,
		guestv1connect.FileServiceReadProcedure: ScopeFiles, guestv1connect.LogServiceTailProcedure: ScopeLogs,
		guestv1connect.SystemServicePingProcedure: "any",
		"": "none", "/": "none", "/stacyvm.guest.v1.FileService": "none", "/stacyvm.guest.v1.FileService/": "none",
		"/stacyvm.guest.v1.SystemService/../stacyvm.guest.v1.FileService/Read": "none", "/other/Read": "none", "//Read": "none",
	}
	for path, needed := range paths {
		for _, scope := range []Scope{ScopeExec, ScopeFiles, ScopeLogs, "", "any", "none"} {
			want := needed == scope && scope != "none" && scope != "any" || needed == "any" && (scope == ScopeExec || scope == ScopeFiles || scope == ScopeLogs)
			if got := scope.Allows(path); got != want {
				t.Errorf("scope %q on %q: %v", scope, path, got)
			}
		}
	}
}

func TestAWrongScopeSendsNothing(t *testing.T) {
	transport, p := serve(t, http.NotFoundHandler())
	c := NewClient(transport.Conn(ScopeLogs))
	_, err := c.Run(t.Context(), stacyvm.Command{})
	wantCode(t, "run", err, stacyvm.CodeForbidden)
	_, err = c.WriteFile(t.Context(), "/f", 0, "", &zeros{1 << 20})
	wantCode(t, "write", err, stacyvm.CodeForbidden)
	_, err = c.Connect(t.Context(), 80)
	wantCode(t, "connect", err, stacyvm.CodeForbidden)
	if n := p.dials.Load(); n != 0 {
		t.Errorf("%d connections were made", n)
	}
}

// pinger answers pings after telling of the request.
type pinger struct {
	guestv1connect.UnimplementedSystemServiceHandler
	seen func(http.Header)
}

func (p pinger) Ping(_ context.Context, request *connect.Request[guestv1.PingRequest]) (*connect.Response[guestv1.PingResponse], error) {
	if p.seen != nil {
		p.seen(request.Header())
	}
	return connect.NewResponse(&guestv1.PingResponse{BootId: "boot"}), nil
}

func pinging(p pinger) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(guestv1connect.NewSystemServiceHandler(p))
	return mux
}

func TestRequestsShareOneConnectionAndShowTheSecret(t *testing.T) {
	var mu sync.Mutex
	seen := map[string]int{}
	transport, p := serve(t, pinging(pinger{seen: func(h http.Header) {
		mu.Lock()
		defer mu.Unlock()
		seen[h.Get("Authorization")]++
		if h.Get("Accept-Encoding") != "identity" {
			t.Errorf("compression is asked for: %v", h)
		}
	}}))
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if id, err := NewClient(transport.Conn(ScopeExec)).Ping(t.Context()); err != nil || id != "boot" {
				t.Errorf("ping: %q, %v", id, err)
			}
		})
	}
	all.Wait()
	if n := p.dials.Load(); n != 1 {
		t.Errorf("%d connections for 50 requests", n)
	}
	if seen["Bearer "+string(testSecret)] != 50 {
		t.Errorf("seen %v", seen)
	}
}

func TestABrokenConnectionIsMadeAgain(t *testing.T) {
	transport, p := serve(t, pinging(pinger{}))
	c := NewClient(transport.Conn(ScopeExec))
	for round := range int32(5) {
		var err error
		for range 100 { // the break may be noticed only by the next request
			if _, err = c.Ping(t.Context()); err == nil {
				break
			}
			wantCode(t, "ping", err, stacyvm.CodeUnavailable)
		}
		if err != nil || p.dials.Load() != round+1 {
			t.Fatalf("round %d: %d connections, %v", round, p.dials.Load(), err)
		}
		p.cut()
	}
}

// TestAPeerThatTakesNoMoreRequestsIsLeft: an orderly shutdown keeps the connection of a stream
// that goes on.
func TestAPeerThatTakesNoMoreRequestsIsLeft(t *testing.T) {
	left := make(chan struct{}, 2)
	handler := (&liar{events: silent(left)}).handler()
	old, fresh := listenInMemory(t, handler), listenInMemory(t, handler)
	transport := NewTransport(func(ctx context.Context) (net.Conn, error) {
		if old.dials.Load() == 0 {
			return old.dial(ctx)
		}
		return fresh.dial(ctx)
	}, testSecret)
	t.Cleanup(transport.Close)
	c := NewClient(transport.Conn(ScopeExec))
	o, err := c.Run(t.Context(), stacyvm.Command{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		_ = old.server.Shutdown(t.Context())
	}()
	for failures := 0; fresh.dials.Load() == 0; {
		if _, err := c.Ping(t.Context()); err != nil {
			wantCode(t, "a request that is not taken", err, stacyvm.CodeUnavailable)
			if failures++; failures > 2 {
				t.Fatal("the connection is used on")
			}
		}
	}
	if _, err := c.Ping(t.Context()); err != nil || fresh.dials.Load() != 1 {
		t.Errorf("%d new connections, %v", fresh.dials.Load(), err)
	}
	_ = o.Close()
	<-left
	<-stopped
}

func TestDialsFailAndAreTriedAgain(t *testing.T) {
	failure := errors.New("no such host path")
	transport := NewTransport(func(context.Context) (net.Conn, error) { return nil, failure }, testSecret)
	defer transport.Close()
	c := NewClient(transport.Conn(ScopeExec))
	for _, own := range []error{errors.New("refused"), stacyvm.Errorf(stacyvm.CodeNotFound, "no such runtime")} {
		failure = own
		want := stacyvm.CodeUnavailable
		if stacyvm.CodeOf(own) == stacyvm.CodeNotFound {
			want = stacyvm.CodeNotFound
		}
		_, err := c.Ping(t.Context())
		wantCode(t, "ping", err, want)
		if !errors.Is(err, own) {
			t.Errorf("the cause is lost: %v", err)
		}
	}
}

func TestClose(t *testing.T) {
	left := make(chan struct{}, 1)
	transport, _ := serve(t, (&liar{events: silent(left)}).handler())
	c := NewClient(transport.Conn(ScopeExec))
	o, err := c.Run(t.Context(), stacyvm.Command{})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = o.Next(t.Context())
	transport.Close()
	_, err = o.Next(t.Context())
	wantCode(t, "a stream", err, stacyvm.CodeUnavailable)
	_, err = c.Ping(t.Context())
	wantCode(t, "a request", err, stacyvm.CodeUnavailable)
	<-left
	_ = o.Close()
	transport.Close()

	waits := make(chan struct{})
	slow := NewTransport(func(ctx context.Context) (net.Conn, error) {
		close(waits)
		<-ctx.Done()
		return nil, ctx.Err()
	}, testSecret)
	refused := make(chan error)
	go func() {
		_, err := NewClient(slow.Conn(ScopeExec)).Ping(t.Context())
		refused <- err
	}()
	<-waits
	slow.Close()
	wantCode(t, "a request that waits for a connection", <-refused, stacyvm.CodeUnavailable)
	NewTransport(nil, testSecret).Close() // never used
}

// TestAStalledReaderStopsNobody opens streams that nobody reads, of a guest that never stops
// writing.
func TestAStalledReaderStopsNobody(t *testing.T) {
	frame := string(make([]byte, maxData))
	sent := make(chan uint64, 100)
	l := &liar{
		stats: &guestv1.StatsResponse{Processes: 1},
		events: func(_ context.Context, stream *connect.ServerStream[guestv1.ProcessEvent]) error {
			_ = stream.Send(started("p"))
			total := uint64(0)
			for stream.Send(data(out, total, frame)) == nil {
				total += maxData
			}
			sent <- total
			return nil
		},
	}
	transport, _ := serve(t, l.handler())
	c := NewClient(transport.Conn(ScopeExec))
	const stalled = 20
	for range stalled {
		o, err := c.Run(t.Context(), stacyvm.Command{})
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
	}
	for range 50 {
		if _, err := c.Stats(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	transport.Close()
	for range stalled {
		if n := <-sent; n > 1<<20 {
			t.Errorf("a reader that does not read held %d bytes", n)
		}
	}
}

// TestADeadPeerIsNoticed: the peer reads and never answers anything.
func TestADeadPeerIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport := NewTransport(func(context.Context) (net.Conn, error) {
			client, server := net.Pipe()
			go func() { _, _ = io.Copy(io.Discard, server) }()
			return client, nil
		}, testSecret)
		defer transport.Close()
		began := time.Now()
		_, err := NewClient(transport.Conn(ScopeExec)).Ping(t.Context())
		wantCode(t, "ping", err, stacyvm.CodeUnavailable)
		if took := time.Since(began); took > pingAfter+pingWithin+time.Second {
			t.Errorf("noticed after %s", took)
		}
	})
}

// TestAQuietCommandIsNotCut: nothing is said for twenty minutes.
func TestAQuietCommandIsNotCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		transport, p := serve(t, (&liar{events: func(ctx context.Context, stream *connect.ServerStream[guestv1.ProcessEvent]) error {
			_ = stream.Send(started("p"))
			select {
			case <-time.After(20 * time.Minute):
			case <-ctx.Done():
				return ctx.Err()
			}
			return stream.Send(exited(&guestv1.Exit{Code: 9}))
		}}).handler())
		o, err := NewClient(transport.Conn(ScopeExec)).Run(t.Context(), stacyvm.Command{})
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
		_, _ = o.Next(t.Context())
		if event, err := o.Next(t.Context()); err != nil || event.Exit == nil || event.Exit.Code != 9 {
			t.Errorf("%+v, %v", event, err)
		}
		if p.dials.Load() != 1 {
			t.Errorf("%d connections", p.dials.Load())
		}
	})
}

// TestControlCallsGetThrough: however many streams are open, pings have room, and a failed one
// ends no stream.
func TestControlCallsGetThrough(t *testing.T) {
	const streams = 700 // the server takes 250 on a connection
	left := make(chan struct{}, streams)
	l := &liar{events: silent(left), stats: &guestv1.StatsResponse{Processes: 1}}
	transport, p := serve(t, l.handler())
	c := NewClient(transport.Conn(ScopeExec))
	var outputs [streams]*Output
	var all sync.WaitGroup
	for i := range outputs {
		all.Go(func() {
			var err error
			if outputs[i], err = c.Run(t.Context(), stacyvm.Command{}); err != nil {
				t.Errorf("stream %d: %v", i, err)
			}
		})
	}
	all.Wait()
	if t.Failed() {
		return
	}
	gone, leave := context.WithCancel(t.Context())
	leave()
	if _, err := c.Stats(gone); err == nil {
		t.Error("a call of nobody was made")
	}
	for range 100 {
		if _, err := c.Stats(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i, o := range outputs {
		if event, err := o.Next(t.Context()); err != nil || event.Started == nil {
			t.Errorf("stream %d: %+v, %v", i, event, err)
		}
	}
	if n := p.dials.Load(); n < 4 || n > 10 {
		t.Errorf("%d connections for %d streams", n, streams)
	}
	for _, o := range outputs {
		_ = o.Close()
	}
	for range outputs {
		<-left
	}
}

// TestAConnectionThatBreaksAtOnceIsNotTriedForever: the peer closes whatever it accepts.
func TestAConnectionThatBreaksAtOnceIsNotTriedForever(t *testing.T) {
	transport := NewTransport(func(context.Context) (net.Conn, error) {
		client, server := net.Pipe()
		_ = server.Close()
		return client, nil
	}, testSecret)
	defer transport.Close()
	_, err := NewClient(transport.Conn(ScopeExec)).Ping(t.Context())
	wantCode(t, "ping", err, stacyvm.CodeUnavailable)
}
