package agent

import (
	"context"
	"errors"
	"net"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
)

// portDialWithin bounds the wait for a program that does not accept.
const portDialWithin = 10 * time.Second

// portService implements the port service.
type portService struct{}

// newPortService serves the TCP ports on the loopback.
func newPortService() guestv1connect.PortServiceHandler { return portService{} }

// Connect implements the service. It returns when both directions have ended, or the host has
// gone.
func (portService) Connect(ctx context.Context, stream *guest.PortStream) error {
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	conn, err := dialLoopback(ctx, first.GetPort())
	if err != nil {
		return err
	}
	return guest.ServePort(ctx, stream, conn, first.GetData(), func(err error) error {
		return connect.NewError(connect.CodeUnavailable, err)
	})
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
