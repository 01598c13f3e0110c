package agent

import (
	"bytes"
	"context"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/guest"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
)

// patience is how long a test waits for what must happen.
const patience = 60 * time.Second

// host is an agent with a client of it over one connection.
type host struct {
	*Agent
	root      string
	secret    string
	http      *http.Client
	processes guestv1connect.ProcessServiceClient
	system    guestv1connect.SystemServiceClient
	logs      guestv1connect.LogServiceClient
}

// newHost starts an agent in a private directory. It is closed, and its processes are gone, when
// the test ends.
func newHost(t *testing.T, change ...func(*Config, *guest.Boot)) *host {
	t.Helper()
	dir := t.TempDir()
	h := &host{root: filepath.Join(dir, "root"), secret: string(guest.NewSecret())}
	if err := os.Mkdir(h.root, 0o755); err != nil {
		t.Fatal(err)
	}
	config := Config{Root: h.root, SpillDir: filepath.Join(dir, "spill"), Version: "test"}
	boot := guest.Boot{Secret: guest.Secret(h.secret)}
	for _, f := range change {
		f(&config, &boot)
	}
	a, err := New(config, boot)
	if err != nil {
		t.Fatal(err)
	}
	h.Agent = a
	t.Cleanup(func() {
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(config.SpillDir); !os.IsNotExist(err) {
			t.Errorf("the spill directory is left: %v", err)
		}
	})
	h.connect(t)
	return h
}

// connect opens a connection and makes the clients that use it.
func (h *host) connect(t *testing.T) {
	t.Helper()
	h.http = h.dial(t)
	options := connect.WithInterceptors(bearer(h.secret))
	h.processes = guestv1connect.NewProcessServiceClient(h.http, "http://guest", options)
	h.system = guestv1connect.NewSystemServiceClient(h.http, "http://guest", options)
	h.logs = guestv1connect.NewLogServiceClient(h.http, "http://guest", options)
}

// dial gives an HTTP client over new connections.
func (h *host) dial(t *testing.T) *http.Client {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	client := httpClient(func(context.Context, string, string) (net.Conn, error) {
		ours, theirs, err := socketPair()
		if err == nil {
			served.Go(func() { _ = h.ServeConn(ctx, theirs) })
		}
		return ours, err
	})
	t.Cleanup(func() {
		cancel()
		served.Wait()
		client.CloseIdleConnections()
	})
	return client
}

func httpClient(dial func(context.Context, string, string) (net.Conn, error)) *http.Client {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{
		DialContext: dial, Protocols: protocols, DisableCompression: true,
		HTTP2: &http.HTTP2Config{MaxReceiveBufferPerStream: 64 << 10},
	}}
}

func socketPair() (a, b net.Conn, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "pair")
		conns[i], err = net.FileConn(file)
		file.Close()
		if err != nil {
			return nil, nil, err
		}
	}
	return conns[0], conns[1], nil
}

// bearer shows a secret with each request.
type bearer string

func (b bearer) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		req.Header().Set("Authorization", "Bearer "+string(b))
		return next(ctx, req)
	}
}

func (b bearer) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return func(ctx context.Context, spec connect.Spec) connect.StreamingClientConn {
		conn := next(ctx, spec)
		conn.RequestHeader().Set("Authorization", "Bearer "+string(b))
		return conn
	}
}

func (b bearer) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return next
}

// result is everything that a reader got of one process.
type result struct {
	started *guestv1.Process
	stdout  []byte
	stderr  []byte
	gaps    []*guestv1.Gap
	exit    *guestv1.Exit
}

// take adds one event, and checks that it follows the ones before.
func (r *result) take(t *testing.T, event *guestv1.ProcessEvent, base [2]uint64) {
	t.Helper()
	switch {
	case event.GetStarted() != nil:
		r.started = event.GetStarted()
	case event.GetGap() != nil:
		r.gaps = append(r.gaps, event.GetGap())
	case event.GetExit() != nil:
		r.exit = event.GetExit()
	case event.GetData() != nil:
		data := event.GetData()
		if len(data.Data) == 0 || len(data.Data) > frameSize {
			t.Errorf("frame of %d bytes", len(data.Data))
		}
		out := &r.stdout
		if data.Stream == guestv1.Stream_STREAM_STDERR {
			out = &r.stderr
		}
		var skipped uint64
		for _, gap := range r.gaps {
			if gap.Stream == data.Stream {
				skipped += gap.Bytes
			}
		}
		if want := base[data.Stream-1] + skipped + uint64(len(*out)); data.Offset != want {
			t.Errorf("%v at offset %d, want %d", data.Stream, data.Offset, want)
		}
		*out = append(*out, data.Data...)
	}
}

// run runs a process to its exit.
func (h *host) run(t *testing.T, req *guestv1.StartRequest) *result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := h.processes.Run(ctx, connect.NewRequest(req))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	r := &result{}
	for stream.Receive() {
		r.take(t, stream.Msg(), [2]uint64{})
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if r.started == nil || r.exit == nil {
		t.Fatalf("%v: started %v, exit %v", req.Argv, r.started, r.exit)
	}
	return r
}

func (h *host) sh(t *testing.T, script string) *result {
	t.Helper()
	return h.run(t, &guestv1.StartRequest{Argv: shell(script)})
}

func shell(script string) []string { return []string{"/bin/sh", "-c", script} }

func (h *host) begin(t *testing.T, req *guestv1.StartRequest) *guestv1.Process {
	t.Helper()
	response, err := h.processes.Start(t.Context(), connect.NewRequest(req))
	if err != nil {
		t.Fatal(err)
	}
	return response.Msg.Process
}

// attach reads from offsets to the exit, or to what is there now.
func (h *host) attach(t *testing.T, req *guestv1.AttachRequest) *result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	stream, err := h.processes.Attach(ctx, connect.NewRequest(req))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	r := &result{}
	for stream.Receive() {
		r.take(t, stream.Msg(), [2]uint64{req.StdoutOffset, req.StderrOffset})
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	return r
}

// watcher reads a process's events one by one.
type watcher struct {
	*result
	t      *testing.T
	stream *connect.ServerStreamForClient[guestv1.ProcessEvent]
}

func (h *host) watch(t *testing.T, req *guestv1.StartRequest) *watcher {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	stream, err := h.processes.Run(ctx, connect.NewRequest(req))
	if err != nil {
		cancel()
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		stream.Close()
	})
	return &watcher{result: &result{}, t: t, stream: stream}
}

// until reads events until done, or to the end.
func (w *watcher) until(done func() bool) {
	w.t.Helper()
	for !done() {
		if !w.stream.Receive() {
			w.t.Fatalf("the stream ended early: %v; stdout %q", w.stream.Err(), w.stdout)
		}
		w.take(w.t, w.stream.Msg(), [2]uint64{})
	}
}

func (w *watcher) untilOutput(text string) {
	w.t.Helper()
	w.until(func() bool { return bytes.Contains(w.stdout, []byte(text)) })
}

func (w *watcher) untilExit() *guestv1.Exit {
	w.t.Helper()
	w.until(func() bool { return w.exit != nil })
	return w.exit
}

func (w *watcher) id() string {
	w.t.Helper()
	w.until(func() bool { return w.started != nil })
	return w.started.Id
}

// eventually waits for what no event tells of.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("never: %s", what)
		}
	}
}

func wantCode(t *testing.T, err error, want connect.Code) {
	t.Helper()
	if err == nil || connect.CodeOf(err) != want {
		t.Errorf("got error %v, want code %v", err, want)
	}
}
