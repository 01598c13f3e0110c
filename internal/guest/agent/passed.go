package agent

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// passedConns is a listener whose connections the host passes as descriptors over a socket. Each
// comes with one byte.
type passedConns struct{ *net.UnixConn }

// ListenPassed makes a listener of a Unix socket that this process was started with.
func ListenPassed(fd int) (net.Listener, error) {
	unix.CloseOnExec(fd)
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("no socket on descriptor %d: %w", fd, err)
	}
	file := os.NewFile(uintptr(fd), "connections")
	defer file.Close() // the socket has a copy
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, fmt.Errorf("no socket on descriptor %d: %w", fd, err)
	}
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		conn.Close()
		return nil, fmt.Errorf("descriptor %d is no Unix socket", fd)
	}
	return passedConns{socket}, nil
}

// Accept implements net.Listener. A connection that did not arrive, because this process has too
// many descriptors open, is closed at the host's end too.
func (l passedConns) Accept() (net.Conn, error) {
	for {
		conn, err := l.receive()
		if conn != nil || err != nil {
			return conn, err
		}
	}
}

func (l passedConns) receive() (net.Conn, error) {
	var data [1]byte
	control := make([]byte, unix.CmsgSpace(4))
	n, m, _, _, err := l.ReadMsgUnix(data[:], control)
	switch {
	case err != nil:
		return nil, err
	case n == 0:
		return nil, io.EOF
	}
	fd, err := passedDescriptor(control[:m])
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // the next one may arrive
	}
	file := os.NewFile(uintptr(fd), "host")
	defer file.Close() // the connection has a copy
	conn, err := net.FileConn(file)
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // likewise
	}
	return conn, nil
}

// passedDescriptor reads the one descriptor of a message.
func passedDescriptor(control []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil || len(messages) != 1 {
		return 0, errors.Join(err, unix.EBADMSG)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return 0, errors.Join(err, unix.EBADMSG)
	}
	return fds[0], nil
}

// Addr implements net.Listener.
func (l passedConns) Addr() net.Addr { return l.LocalAddr() }
