package guest

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
)

// portStream carries one TCP connection.
type portStream = connect.BidiStreamForClient[guestv1.ConnectRequest, guestv1.ConnectResponse]

// Connect opens a TCP connection to a port on the sandbox's loopback. ctx bounds the opening
// alone; close the connection. It has CloseWrite, as TCP connections do. CodeUnavailable: nothing
// listens there.
func (c *Client) Connect(ctx context.Context, port uint16) (net.Conn, error) {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	keep := context.AfterFunc(ctx, cancel)
	ports := callerOf[guestv1.ConnectRequest, guestv1.ConnectResponse](c, guestv1connect.PortServiceConnectProcedure)
	stream := ports.CallBidiStream(life)
	first, err := openPort(stream, port)
	err = failure(life, err)
	if !keep() { // ctx ended
		err = ended(ctx)
	}
	if err != nil {
		cancel()
		_ = stream.CloseResponse()
		return nil, err
	}
	conn := newPortConn(port, cancel)
	go conn.run(life, cancel, stream, first)
	return conn, nil
}

// openPort names the port and gives the first bytes that came back.
func openPort(stream *portStream, port uint16) ([]byte, error) {
	err := stream.Send(&guestv1.ConnectRequest{Port: uint32(port)})
	if err != nil && !errors.Is(err, io.EOF) { // at io.EOF the reason is in the answer
		return nil, err
	}
	answer, err := stream.Receive()
	switch {
	case errors.Is(err, io.EOF):
		return nil, cut()
	case err == nil && !answer.GetConnected():
		return nil, nonsense("a port's stream did not begin with its connection")
	}
	return answer.GetData(), err
}

// run carries the bytes until both directions have ended.
func (c *portConn) run(ctx context.Context, cancel context.CancelFunc, stream *portStream, first []byte) {
	var directions sync.WaitGroup
	directions.Go(func() { c.receive(ctx, cancel, stream, first) })
	directions.Go(func() { c.send(cancel, stream) })
	directions.Wait()
	cancel()
	_ = stream.CloseResponse()
}

// receive copies from the stream until its end. Bytes for a reader that has gone end the
// connection, as in TCP.
func (c *portConn) receive(ctx context.Context, cancel context.CancelFunc, stream *portStream, data []byte) {
	defer c.received.Close()
	for {
		if len(data) > 0 {
			if _, err := c.received.Write(data); err != nil {
				cancel()
				return
			}
		}
		answer, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return
		}
		switch {
		case err == nil && len(answer.GetData()) > maxData:
			err = nonsense("a data frame is too large")
		case err == nil && answer.GetBroken():
			err = stacyvm.Errorf(stacyvm.CodeUnavailable, "the program in the sandbox broke the connection off")
		}
		if err != nil {
			c.fail(failure(ctx, err))
			cancel()
			return
		}
		if data = answer.GetData(); answer.GetEnded() {
			_ = c.received.Close()
			data = nil
		}
	}
}

// send copies into the stream until the writer closes.
func (c *portConn) send(cancel context.CancelFunc, stream *portStream) {
	defer c.sent.Close() // a write after it fails
	buffer := make([]byte, maxData)
	for {
		n, err := c.sent.Read(buffer)
		if n > 0 {
			sending := stream.Send(&guestv1.ConnectRequest{Data: buffer[:n]})
			if sending != nil {
				if !errors.Is(sending, io.EOF) { // at io.EOF receive learns the reason
					cancel()
				}
				return
			}
		}
		if err != nil {
			_ = stream.CloseRequest() // fails only when the stream has ended
			return
		}
	}
}
