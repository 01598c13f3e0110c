package main

import (
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// connection makes a descriptor that this process was started with a connection, whatever byte
// stream it is.
func connection(fd int) (net.Conn, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, fmt.Errorf("no connection on descriptor %d: %w", fd, err)
	}
	file := os.NewFile(uintptr(fd), "host")
	if conn, err := net.FileConn(file); err == nil {
		file.Close() // conn has a copy
		return conn, nil
	}
	return fileConn{file}, nil
}

// fileConn is a connection that is not a socket: a serial port.
type fileConn struct{ *os.File }

// LocalAddr has nothing to tell.
func (c fileConn) LocalAddr() net.Addr { return hostAddr{} }

// RemoteAddr has nothing to tell.
func (c fileConn) RemoteAddr() net.Addr { return hostAddr{} }

type hostAddr struct{}

func (hostAddr) Network() string { return "descriptor" }
func (hostAddr) String() string  { return "host" }
