package agent

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"time"

	"connectrpc.com/connect"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
)

// portDialWithin bounds the wait for a program that does not accept.
const portDialWithin = 10 * time.Second

// portService implements the port service.
type portService struct{}

// newPortService serves the TCP ports on the loopback.
func newPortService() guestv1connect.PortServiceHandler { return portService{} }

// portConnection is the stream that carries one TCP connection.
type portConnection = connect.BidiStream[guestv1.ConnectRequest, guestv1.ConnectResponse]

// Connect implements the service. It returns when both directions have ended, or the host has gone.
func (portService) Connect(ctx context.Context, stream *portConnection) error {
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	conn, err := dialLoopback(ctx, first.GetPort())
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if err := stream.Send(&guestv1.ConnectResponse{Connected: true}); err != nil {
		return err
	}
	down := make(chan error, 1)
	go func() { down <- fromPort(conn, stream) }()
	err = toPort(stream, conn, first.GetData())
	if err != nil {
		_ = conn.Close()
	}
	return errors.Join(err, <-down)
}

// dialLoopback connects to a port on either loopback address.
func dialLoopback(ctx context.Context, port uint32) (*net.TCPConn, error) {
	if port == 0 || port > 65535 {
		return nil, wrong("port %d is not between 1 and 65535", port)
	}
	dialer := net.Dialer{Timeout: portDialWithin}
	var failures []error
	for _, address := range []string{"127.0.0.1", "::1"} {
		conn, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(int(port))))
		if err == nil {
			return conn.(*net.TCPConn), nil // of network tcp
		}
		failures = append(failures, err)
	}
	return nil, connect.NewError(connect.CodeUnavailable, errors.Join(failures...))
}

// toPort carries what the host sends, and its end.
func toPort(stream *portConnection, conn *net.TCPConn, data []byte) error {
	for {
		if len(data) > 0 {
			if _, err := conn.Write(data); err != nil {
				return connect.NewError(connect.CodeUnavailable, err)
			}
		}
		request, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			_ = conn.CloseWrite() // fails only when the connection is broken, which reading learns
			return nil
		}
		if err != nil {
			return err
		}
		data = request.GetData()
	}
}

// fromPort carries what the program sends, and its end.
func fromPort(conn *net.TCPConn, stream *portConnection) error {
	buffer := make([]byte, fileFrame)
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
