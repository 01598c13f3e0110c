package agent

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
)

const (
	largestMessage = 4 << 20
	largestHeader  = 32 << 10
	headerTime     = 30 * time.Second
	mostStreams    = 1024
	streamWindow   = 128 << 10
	// connWindow has room for every stream's window: uploads to programs that do not read stop
	// nobody else.
	connWindow = mostStreams * streamWindow
	// readFrame bounds what one frame of a request holds, in bytes: the host holds as much in
	// memory for each upload.
	readFrame = 32 << 10
	// pingAfter and pingTime find a host that is gone without a word: its readers must not hold up
	// lossless processes.
	pingAfter = 30 * time.Second
	pingTime  = 30 * time.Second
)

func (a *Agent) newHandler() http.Handler {
	options := []connect.HandlerOption{
		connect.WithReadMaxBytes(largestMessage), connect.WithSendMaxBytes(largestMessage),
		connect.WithCompression("gzip", nil, nil), // never: it costs time, and a small bomb becomes a large message
	}
	mux := http.NewServeMux()
	mux.Handle(guestv1connect.NewProcessServiceHandler(processService{a}, options...))
	mux.Handle(guestv1connect.NewFileServiceHandler(newFileService(a.config.Root, a.user), options...))
	mux.Handle(guestv1connect.NewPortServiceHandler(newPortService(), options...))
	mux.Handle(guestv1connect.NewSystemServiceHandler(systemService{a}, options...))
	mux.Handle(guestv1connect.NewLogServiceHandler(logService{a}, options...))
	return a.guarded(mux)
}

// newServer makes a server for HTTP/2, with http1 for HTTP/1 too.
func (a *Agent) newServer(http1 bool) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	protocols.SetHTTP1(http1)
	return &http.Server{
		Handler: a.handler, Protocols: protocols, ReadHeaderTimeout: headerTime, MaxHeaderBytes: largestHeader,
		ErrorLog: log.New(io.Discard, "", 0), // what an unauthenticated caller sends is not worth a line
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          mostStreams,
			MaxReceiveBufferPerStream:     streamWindow,
			MaxReceiveBufferPerConnection: connWindow,
			MaxReadFrameSize:              readFrame,
			SendPingTimeout:               pingAfter,
			PingTimeout:                   pingTime,
		},
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			if first, ok := conn.(*single); ok {
				conn = first.Conn
			}
			switch conn.(type) {
			case *unauthenticated, *guest.Gather:
				return context.WithValue(ctx, connectionKey{}, conn)
			}
			return ctx
		},
	}
}

// Serve answers on every connection that l accepts, until ctx ends, l fails or the agent closes;
// the error says which. A connection must show the secret soon.
func (a *Agent) Serve(ctx context.Context, l net.Listener) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	err := a.server.Serve(&gate{Listener: l})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// ServeHost answers on every connection that l accepts, which the host alone makes, until ctx
// ends, l fails or the agent closes. Over HTTP/1 a connection carries one request at a time, and
// bytes with no frames, windows and goroutines between a handler and the connection.
func (a *Agent) ServeHost(ctx context.Context, l net.Listener) error {
	defer context.AfterFunc(ctx, func() { l.Close() })()
	return a.direct.Serve(gathering{l})
}

// gathering is a listener whose connections gather writes.
type gathering struct{ net.Listener }

// Accept implements net.Listener.
func (l gathering) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &guest.Gather{Conn: conn}, nil
}

// ServeConn answers on one such connection until it ends or ctx does or the agent closes.
func (a *Agent) ServeConn(ctx context.Context, conn net.Conn) error {
	l := newSingle(conn)
	defer context.AfterFunc(ctx, func() { l.Close() })()
	err := a.direct.Serve(l)
	l.Close()
	if errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return ctx.Err()
}

// single is a listener with one connection; it ends when that one does. It is that connection,
// too, to see it closed.
type single struct {
	net.Conn
	accept chan struct{}
	gone   chan struct{}
	once   sync.Once
	err    error
}

func newSingle(conn net.Conn) *single {
	s := &single{Conn: &guest.Gather{Conn: conn}, accept: make(chan struct{}, 1), gone: make(chan struct{})}
	s.accept <- struct{}{}
	return s
}

// Accept gives the connection, and the next time waits for its end.
func (s *single) Accept() (net.Conn, error) {
	select {
	case <-s.accept:
		return s, nil
	case <-s.gone:
		return nil, net.ErrClosed
	}
}

// Addr is the connection's own address.
func (s *single) Addr() net.Addr { return s.LocalAddr() }

// SetReadDeadline knows no limit: the host may leave the connection that this program was born
// with alone for as long as it likes before its first request. Limits are for strangers.
func (s *single) SetReadDeadline(t time.Time) error {
	if t.After(time.Now()) {
		t = time.Time{}
	}
	return s.Conn.SetReadDeadline(t)
}

// Close closes the connection and ends the listener.
func (s *single) Close() error {
	s.once.Do(func() {
		s.err = s.Conn.Close()
		close(s.gone)
	})
	return s.err
}
