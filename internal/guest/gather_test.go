package guest

import (
	"bytes"
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// packets makes a pair of sockets that keep writes apart.
func packets(t *testing.T) (ours, theirs net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := [2]net.Conn{}
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "packets")
		if conns[i], err = net.FileConn(file); err != nil {
			t.Fatal(err)
		}
		_ = file.Close()
		t.Cleanup(func() { _ = conns[i].Close() })
	}
	return conns[0], conns[1]
}

// TestGather: a chunk goes out in one write, its end with what follows, and everything in order.
func TestGather(t *testing.T) {
	ours, theirs := packets(t)
	g := &Gather{Conn: ours}
	large := bytes.Repeat([]byte("x"), mostHeld+1)
	next := func() string {
		t.Helper()
		buffer := make([]byte, 1<<20)
		n, err := theirs.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		return string(buffer[:n])
	}
	write := func(data string) {
		t.Helper()
		if n, err := g.Write([]byte(data)); n != len(data) || err != nil {
			t.Fatalf("%d of %d bytes, %v", n, len(data), err)
		}
	}
	release := func() {
		t.Helper()
		if err := g.Release(); err != nil {
			t.Fatal(err)
		}
	}
	write("head")
	if got := next(); got != "head" {
		t.Errorf("%q", got)
	}
	for _, before := range []string{"", "\r\n"} {
		g.Hold()
		write("begin")
		write(string(large))
		write("\r\n")
		release()
		if got := next(); got != before+"begin"+string(large) {
			t.Errorf("%d bytes after %q", len(got), before)
		}
	}
	g.Hold()
	write("small")
	write("\r\n")
	release()
	if got := next(); got != "\r\nsmall\r\n" {
		t.Errorf("%q", got)
	}
	g.Hold()
	write("\r\n")
	release()
	write("0\r\n\r\n")
	if got := next(); got != "\r\n0\r\n\r\n" {
		t.Errorf("%q", got)
	}
}
