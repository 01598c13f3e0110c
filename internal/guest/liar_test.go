package guest

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
)

// liar is a guest program that does what a test tells it.
type liar struct {
	guestv1connect.UnimplementedProcessServiceHandler
	guestv1connect.UnimplementedSystemServiceHandler

	events  func(context.Context, *connect.ServerStream[guestv1.ProcessEvent]) error
	process *guestv1.Process
	failure error
	read    func(*connect.ServerStream[guestv1.ReadResponse]) error
	write   func(*connect.ClientStream[guestv1.WriteRequest]) error
	list    func(*connect.ServerStream[guestv1.ListFilesResponse]) error
	stats   *guestv1.StatsResponse
}

func (l *liar) Run(ctx context.Context, _ *connect.Request[guestv1.StartRequest], stream *connect.ServerStream[guestv1.ProcessEvent]) error {
	return l.events(ctx, stream)
}

func (l *liar) Attach(ctx context.Context, _ *connect.Request[guestv1.AttachRequest], stream *connect.ServerStream[guestv1.ProcessEvent]) error {
	return l.events(ctx, stream)
}

func (l *liar) Wait(context.Context, *connect.Request[guestv1.WaitRequest]) (*connect.Response[guestv1.WaitResponse], error) {
	return connect.NewResponse(&guestv1.WaitResponse{Process: l.process}), l.failure
}

func (l lyingFiles) Read(_ context.Context, _ *connect.Request[guestv1.ReadRequest], stream *connect.ServerStream[guestv1.ReadResponse]) error {
	return l.read(stream)
}

func (l lyingFiles) Write(_ context.Context, stream *connect.ClientStream[guestv1.WriteRequest]) (*connect.Response[guestv1.WriteResponse], error) {
	return connect.NewResponse(&guestv1.WriteResponse{}), l.write(stream)
}

func (l lyingFiles) List(_ context.Context, _ *connect.Request[guestv1.ListFilesRequest], stream *connect.ServerStream[guestv1.ListFilesResponse]) error {
	return l.list(stream)
}

func (l *liar) Stats(context.Context, *connect.Request[guestv1.StatsRequest]) (*connect.Response[guestv1.StatsResponse], error) {
	return connect.NewResponse(l.stats), nil
}

// lyingFiles is the part of a liar that serves files.
type lyingFiles struct {
	guestv1connect.UnimplementedFileServiceHandler
	*liar
}

func (l *liar) handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle(guestv1connect.NewProcessServiceHandler(l))
	mux.Handle(guestv1connect.NewFileServiceHandler(lyingFiles{liar: l}))
	mux.Handle(guestv1connect.NewSystemServiceHandler(l))
	return mux
}

// Ping tells nothing but that the liar is there.
func (l *liar) Ping(context.Context, *connect.Request[guestv1.PingRequest]) (*connect.Response[guestv1.PingResponse], error) {
	return connect.NewResponse(&guestv1.PingResponse{}), nil
}

// pipes dials connections in memory to a server of one handler.
type pipes struct {
	server *http.Server
	conns  chan net.Conn
	dials  atomic.Int32
	done   chan struct{}
	once   sync.Once

	mu   sync.Mutex
	last net.Conn // the server's end
}

func (p *pipes) dial(ctx context.Context) (net.Conn, error) {
	p.dials.Add(1)
	client, server := net.Pipe()
	p.mu.Lock()
	p.last = server
	p.mu.Unlock()
	select {
	case p.conns <- server:
		return client, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-p.done:
		return nil, net.ErrClosed
	}
}

// Accept, Close and Addr make it a net.Listener.
func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.conns:
		return conn, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}
func (p *pipes) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.UnixAddr{} }

// cut breaks the newest connection.
func (p *pipes) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.last.Close()
}

const testSecret Secret = "the secret of this test, long enough for all"

// serve starts a server and a transport to it; both end with the test.
func serve(t testing.TB, handler http.Handler) (*Transport, *pipes) {
	t.Helper()
	p := listenInMemory(t, handler)
	transport := NewTransport(p.dial, testSecret)
	t.Cleanup(transport.Close)
	return transport, p
}

func listenInMemory(t testing.TB, handler http.Handler) *pipes {
	t.Helper()
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: handler, Protocols: protocols}
	p := &pipes{server: server, conns: make(chan net.Conn), done: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(p)
	}()
	t.Cleanup(func() {
		_ = server.Close()
		<-done
	})
	return p
}

func clientOf(t testing.TB, l *liar, scope Scope) *Client {
	t.Helper()
	transport, _ := serve(t, l.handler())
	return NewClient(transport.Conn(scope))
}

func started(id string) *guestv1.ProcessEvent {
	return &guestv1.ProcessEvent{Event: &guestv1.ProcessEvent_Started{Started: &guestv1.Process{Id: id}}}
}

func data(stream guestv1.Stream, offset uint64, bytes string) *guestv1.ProcessEvent {
	return &guestv1.ProcessEvent{Event: &guestv1.ProcessEvent_Data{Data: &guestv1.Data{Stream: stream, Offset: offset, Data: []byte(bytes)}}}
}

func gap(stream guestv1.Stream, offset, bytes uint64) *guestv1.ProcessEvent {
	return &guestv1.ProcessEvent{Event: &guestv1.ProcessEvent_Gap{Gap: &guestv1.Gap{Stream: stream, Offset: offset, Bytes: bytes}}}
}

func exited(e *guestv1.Exit) *guestv1.ProcessEvent {
	return &guestv1.ProcessEvent{Event: &guestv1.ProcessEvent_Exit{Exit: e}}
}

func keepalive() *guestv1.ProcessEvent {
	return &guestv1.ProcessEvent{Event: &guestv1.ProcessEvent_Keepalive{Keepalive: &guestv1.Keepalive{}}}
}

// says makes a liar's stream of these events.
func says(events ...*guestv1.ProcessEvent) func(context.Context, *connect.ServerStream[guestv1.ProcessEvent]) error {
	return func(_ context.Context, stream *connect.ServerStream[guestv1.ProcessEvent]) error {
		for _, event := range events {
			if err := stream.Send(event); err != nil {
				return err
			}
		}
		return nil
	}
}

func wantCode(t *testing.T, what string, err error, want stacyvm.Code) {
	t.Helper()
	if stacyvm.CodeOf(err) != want {
		t.Errorf("%s: %q, want %q (%v)", what, stacyvm.CodeOf(err), want, err)
	}
}

const out, errs = guestv1.Stream_STREAM_STDOUT, guestv1.Stream_STREAM_STDERR

func TestLiesBreakTheStream(t *testing.T) {
	for what, lie := range map[string]*guestv1.ProcessEvent{
		"going back":               data(out, 1, "x"),
		"a hole without a gap":     data(out, 3, "x"),
		"the other stream's place": data(errs, 2, "x"),
		"an unknown stream":        data(7, 2, "x"),
		"no stream":                data(0, 2, "x"),
		"an oversized frame":       data(out, 2, strings.Repeat("x", LargeFrame+1)),
		"an oversized message":     data(out, 2, strings.Repeat("x", maxMessage+1)),
		"a gap that goes back":     gap(out, 0, 2),
		"a gap that overflows":     gap(out, 2, math.MaxUint64-1),
		"a gap of a gap":           gap(errs, 1, 1),
		"an exit too early":        exited(&guestv1.Exit{StdoutBytes: 3}),
	} {
		t.Run(what, func(t *testing.T) {
			c := clientOf(t, &liar{events: says(started("p"), data(out, 0, "ok"), lie, exited(&guestv1.Exit{}))}, ScopeExec)
			o, err := c.Run(t.Context(), stacyvm.Command{ProcessID: "p", Argv: []string{"true"}})
			if err != nil {
				t.Fatal(err)
			}
			defer o.Close()
			for range 2 {
				if _, err := o.Next(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			_, err = o.Next(t.Context())
			wantCode(t, "the lie", err, stacyvm.CodeUnavailable)
			if errors.Is(err, io.EOF) {
				t.Error("the lie reads as the end")
			}
			_, again := o.Next(t.Context())
			wantCode(t, "after the lie", again, stacyvm.CodeUnavailable)
		})
	}
}

func TestLiesAreTrimmed(t *testing.T) {
	long := strings.Repeat("é", 1<<18)
	process := &guestv1.Process{
		Id: "another", Pid: -5, Argv: []string{long, long, long}, Label: long, User: long, StartedUs: math.MaxInt64, EndedUs: math.MinInt64,
		Stdout: &guestv1.StreamState{First: 9, Bytes: 3},
		Exit:   &guestv1.Exit{Code: -7, Signal: 99, Error: "red \x1b[31m\n" + long, DurationUs: math.MaxInt64, StdoutSha256: []byte("short")},
	}
	c := clientOf(t, &liar{process: process, stats: &guestv1.StatsResponse{CpuUs: math.MaxUint64, Processes: math.MaxUint32}}, ScopeExec)
	p, err := c.Wait(t.Context(), "mine")
	if err != nil {
		t.Fatal(err)
	}
	if p.ID != "mine" || p.PID != 0 || len(p.Label) > maxText || len(p.User) > maxName || p.Stdout.First > p.Stdout.Bytes {
		t.Errorf("process %s, pid %d, label of %d bytes, user of %d, stdout %+v", p.ID, p.PID, len(p.Label), len(p.User), p.Stdout)
	}
	if len(p.Argv) != 3 || len(p.Argv[0]) > maxText || strings.ContainsRune(p.Argv[0], '\uFFFD') {
		t.Errorf("%d arguments, the first of %d bytes", len(p.Argv), len(p.Argv[0]))
	}
	for _, at := range []interface{ MarshalJSON() ([]byte, error) }{p.StartedAt, p.EndedAt} {
		if _, err := at.MarshalJSON(); err != nil {
			t.Error(err)
		}
	}
	if e := p.Exit; e.Code != 255 || e.Signal != 64 || e.Duration < 0 || e.StdoutSHA256 != nil || strings.ContainsAny(e.Error, "\x1b\n") || len(e.Error) > 512 {
		t.Errorf("exit %+v", e)
	}
	if s, err := c.Stats(t.Context()); err != nil || s.CPUTime < 0 || s.Processes < 0 {
		t.Errorf("stats %+v, %v", s, err)
	}
}

func TestAWaitNeedsAnEnd(t *testing.T) {
	c := clientOf(t, &liar{process: &guestv1.Process{}}, ScopeExec)
	_, err := c.Wait(t.Context(), "p")
	wantCode(t, "wait", err, stacyvm.CodeUnavailable)
}

func TestARunBeginsWithItsStart(t *testing.T) {
	for what, events := range map[string][]*guestv1.ProcessEvent{
		"nothing": nil, "data": {data(out, 0, "x")}, "a keepalive": {keepalive()}, "the exit": {exited(&guestv1.Exit{})},
	} {
		_, err := clientOf(t, &liar{events: says(events...)}, ScopeExec).Run(t.Context(), stacyvm.Command{})
		wantCode(t, what, err, stacyvm.CodeUnavailable)
	}
}

func TestEndlessListsEnd(t *testing.T) {
	for what, batch := range map[string][]*guestv1.FileInfo{
		"many entries": manyFiles(1000, ""), "empty entries": manyFiles(MaxFields-1, ""), "long names": manyFiles(500, strings.Repeat("n", 4000)),
		"too many fields": manyFiles(MaxFields+1, ""),
	} {
		t.Run(what, func(t *testing.T) {
			c := clientOf(t, &liar{list: func(stream *connect.ServerStream[guestv1.ListFilesResponse]) error {
				for {
					if err := stream.Send(&guestv1.ListFilesResponse{Files: batch}); err != nil {
						return err
					}
				}
			}}, ScopeFiles)
			_, err := c.ListFiles(t.Context(), "/")
			want := stacyvm.CodeTooLarge
			if len(batch) > MaxFields {
				want = stacyvm.CodeUnavailable
			}
			wantCode(t, "list", err, want)
		})
	}
}

func manyFiles(n int, name string) []*guestv1.FileInfo {
	files := make([]*guestv1.FileInfo, n)
	for i := range files {
		files[i] = &guestv1.FileInfo{Path: name}
	}
	return files
}

func TestFilesThatLie(t *testing.T) {
	info := &guestv1.ReadResponse{Part: &guestv1.ReadResponse_Info{Info: &guestv1.FileInfo{Size: math.MaxUint64, Mode: math.MaxUint32}}}
	part := func(n int) *guestv1.ReadResponse {
		return &guestv1.ReadResponse{Part: &guestv1.ReadResponse_Data{Data: make([]byte, n)}}
	}
	for what, parts := range map[string][]*guestv1.ReadResponse{"nothing": nil, "no info": {part(1)}} {
		c := clientOf(t, &liar{read: func(stream *connect.ServerStream[guestv1.ReadResponse]) error { return send2(stream, parts) }}, ScopeFiles)
		_, body, err := c.ReadFile(t.Context(), "/f")
		wantCode(t, what, err, stacyvm.CodeUnavailable)
		if body != nil {
			t.Errorf("%s: a reader came with the error", what)
		}
	}
	c := clientOf(t, &liar{read: func(stream *connect.ServerStream[guestv1.ReadResponse]) error {
		return send2(stream, []*guestv1.ReadResponse{info, part(10), info, part(LargeFrame + 1)})
	}}, ScopeFiles)
	told, body, err := c.ReadFile(t.Context(), "/f")
	if err != nil || told.Mode > 0o7777 {
		t.Fatalf("%+v, %v", told, err)
	}
	defer body.Close()
	got, err := io.ReadAll(body)
	wantCode(t, "an oversized frame", err, stacyvm.CodeUnavailable)
	if len(got) != 10 {
		t.Errorf("%d bytes before it", len(got))
	}
}

func send2(stream *connect.ServerStream[guestv1.ReadResponse], parts []*guestv1.ReadResponse) error {
	for _, part := range parts {
		if err := stream.Send(part); err != nil {
			return err
		}
	}
	return nil
}

func TestAnswersBecomeCodes(t *testing.T) {
	for code, want := range map[connect.Code]stacyvm.Code{
		connect.CodeNotFound: stacyvm.CodeNotFound, connect.CodeAlreadyExists: stacyvm.CodeConflict, connect.CodeFailedPrecondition: stacyvm.CodeConflict,
		connect.CodeInvalidArgument: stacyvm.CodeInvalid, connect.CodePermissionDenied: stacyvm.CodeInvalid, connect.CodeOutOfRange: stacyvm.CodeTooLarge,
		connect.CodeResourceExhausted: stacyvm.CodeStorageFull, connect.CodeUnauthenticated: stacyvm.CodeUnavailable,
		connect.CodeUnavailable: stacyvm.CodeUnavailable, connect.CodeCanceled: stacyvm.CodeUnavailable, connect.CodeUnimplemented: stacyvm.CodeUnsupported,
		connect.CodeInternal: stacyvm.CodeInternal, connect.CodeUnknown: stacyvm.CodeInternal, connect.CodeDataLoss: stacyvm.CodeInternal,
		connect.CodeDeadlineExceeded: stacyvm.CodeTimeout,
	} {
		refusal := connect.NewError(code, errors.New("bad\x1b[0m\n"+strings.Repeat("words ", 1000)))
		l := &liar{failure: refusal, events: func(context.Context, *connect.ServerStream[guestv1.ProcessEvent]) error { return refusal },
			write: func(*connect.ClientStream[guestv1.WriteRequest]) error { return refusal }}
		transport, _ := serve(t, l.handler())
		c := NewClient(transport.Conn(ScopeExec))
		_, err := c.Wait(t.Context(), "p")
		wantCode(t, code.String(), err, want)
		if own := (*stacyvm.Error)(nil); !errors.As(err, &own) || len(own.Message) > 512 || strings.ContainsAny(own.Message, "\x1b\n") {
			t.Errorf("%s: message %.40q", code, own.Message)
		}
		if o, err := c.Attach(t.Context(), "p", 0, 0, true); stacyvm.CodeOf(err) != want || o != nil {
			t.Errorf("attach: %v, %v", o, err)
		}
		_, err = NewClient(transport.Conn(ScopeFiles)).WriteFile(t.Context(), "/f", 0, "", &zeros{1 << 20})
		wantCode(t, "write: "+code.String(), err, want)
	}
}

// zeros gives n zero bytes.
type zeros struct{ n int }

func (z *zeros) Read(p []byte) (int, error) {
	if z.n == 0 {
		return 0, io.EOF
	}
	n := min(len(p), z.n)
	clear(p[:n])
	z.n -= n
	return n, nil
}

func TestStrangersAreUnavailable(t *testing.T) {
	for what, handler := range map[string]http.HandlerFunc{
		"not found": http.NotFound,
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
		},
		"wrong type": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("hello")) },
		"garbage": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
			_, _ = w.Write([]byte("\x00\x00\x00\x00\x05\xff\xff\xff\xff\xffrest"))
		},
		"huge headers": func(w http.ResponseWriter, _ *http.Request) {
			for range 40 {
				w.Header().Add("X-Long", strings.Repeat("h", 1000))
			}
		},
		"a panic": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"a cut message": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
			_, _ = w.Write([]byte("\x00\x00\x01\x00\x00cut"))
		},
	} {
		transport, _ := serve(t, handler)
		_, err := NewClient(transport.Conn(ScopeExec)).Run(t.Context(), stacyvm.Command{})
		if code := stacyvm.CodeOf(err); code != stacyvm.CodeUnavailable {
			t.Errorf("%s: %q (%v)", what, code, err)
		}
	}
}
