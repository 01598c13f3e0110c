package agent

import (
	"errors"
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestPassedConnections: each descriptor that is passed is a connection; a message without one is
// passed over, and the end of the socket is the listener's.
func TestPassedConnections(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	l, err := ListenPassed(pair[1])
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := unix.Sendmsg(pair[0], []byte{0}, nil, nil, 0); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		host, guest, err := socketPair()
		if err != nil {
			t.Fatal(err)
		}
		file, err := guest.(interface{ File() (*os.File, error) }).File()
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(int(file.Fd())), nil, 0); err != nil {
			t.Fatal(err)
		}
		file.Close()
		guest.Close()
		accepted, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(host, "hello"); err != nil {
			t.Fatal(err)
		}
		host.Close()
		if text, err := io.ReadAll(accepted); err != nil || string(text) != "hello" {
			t.Errorf("%q, %v", text, err)
		}
		accepted.Close()
	}
	unix.Close(pair[0])
	if _, err := l.Accept(); !errors.Is(err, io.EOF) {
		t.Errorf("after its end: %v", err)
	}
}
