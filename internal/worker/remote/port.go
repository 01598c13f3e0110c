package remote

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// frameBytes is the largest piece of a connection's bytes in one message.
const frameBytes = 64 << 10

type refKey struct{}

// port reads the ref in the path and hands the rest to the port service.
func (s *server) port(next http.Handler) http.Handler {
	return withControl(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ref, err := refOf(r)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		inner := r.Clone(context.WithValue(r.Context(), refKey{}, ref))
		inner.URL.Path, inner.URL.RawPath = methodOf(r.URL.Path), ""
		next.ServeHTTP(w, inner)
	}))
}

// ports implements the guest's port service with the worker's own way to a port, so that the client of guests serves for both.
type ports struct{ *server }

// portStream carries one TCP connection.
type portStream = connect.BidiStream[guestv1.ConnectRequest, guestv1.ConnectResponse]

// Connect implements the service. It returns when both directions have ended, or the caller has gone.
func (p ports) Connect(ctx context.Context, stream *portStream) error {
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	conn, err := p.dial(ctx, first.GetPort())
	if err != nil {
		mark(stream.ResponseHeader(), err)
		return p.failed(ctx, stream.Spec().Procedure, err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if err := stream.Send(&guestv1.ConnectResponse{Connected: true}); err != nil {
		return err
	}
	down := make(chan error, 1)
	go func() { down <- fromPort(conn, stream) }()
	if err = toPort(stream, conn, first.GetData()); err != nil {
		_ = conn.Close()
	}
	return errors.Join(err, <-down)
}

func (p ports) dial(ctx context.Context, port uint32) (net.Conn, error) {
	ref, _ := ctx.Value(refKey{}).(stacyvm.Ref)
	if port == 0 || port > 65535 {
		return nil, stacyvm.Invalid("port", "must be between 1 and 65535")
	}
	if err := p.enter(ctx, ref); err != nil {
		return nil, err
	}
	return p.Worker.DialPort(ctx, ref, uint16(port))
}

// toPort carries what the caller sends, and its end.
func toPort(stream *portStream, conn net.Conn, data []byte) error {
	for {
		if len(data) > 0 {
			if _, err := conn.Write(data); err != nil {
				return wireError(stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the program in the sandbox broke the connection off"))
			}
		}
		request, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			if half, ok := conn.(interface{ CloseWrite() error }); ok {
				_ = half.CloseWrite() // fails only when the connection is broken, which reading learns
			}
			return nil
		}
		if err != nil {
			return err
		}
		data = request.GetData()
	}
}

// fromPort carries what the program sends, and its end.
func fromPort(conn net.Conn, stream *portStream) error {
	buffer := make([]byte, frameBytes)
	for {
		n, err := conn.Read(buffer)
		if n > 0 {
			if err := stream.Send(&guestv1.ConnectResponse{Data: buffer[:n]}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return stream.Send(&guestv1.ConnectResponse{Ended: true})
		}
		if err != nil {
			return stream.Send(&guestv1.ConnectResponse{Broken: true})
		}
	}
}
