package guest

import (
	"context"
	"errors"
	"io"
	"net"

	"connectrpc.com/connect"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// portFrame is the largest piece of a connection's bytes in one message.
const portFrame = 32 << 10

// PortStream is the serving side of a stream that carries one TCP connection.
type PortStream = connect.BidiStream[guestv1.ConnectRequest, guestv1.ConnectResponse]

// ServePort carries the bytes of an open connection over a stream that asked for it, and closes
// the connection. data came with the question, and broken makes the error of bytes that the
// program no longer takes. It returns when both directions have ended, or the caller has gone.
func ServePort(ctx context.Context, stream *PortStream, conn net.Conn, data []byte, broken func(error) error) error {
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if err := stream.Send(&guestv1.ConnectResponse{Connected: true}); err != nil {
		return err
	}
	down := make(chan error, 1)
	go func() { down <- fromPort(conn, stream) }()
	err := toPort(stream, conn, data, broken)
	if err != nil {
		_ = conn.Close()
	}
	return errors.Join(err, <-down)
}

// toPort carries what the caller sends, and its end.
func toPort(stream *PortStream, conn net.Conn, data []byte, broken func(error) error) error {
	for {
		if len(data) > 0 {
			if _, err := conn.Write(data); err != nil {
				return broken(err)
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
func fromPort(conn net.Conn, stream *PortStream) error {
	buffer := make([]byte, portFrame)
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
