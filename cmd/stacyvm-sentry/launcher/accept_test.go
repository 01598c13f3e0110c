package launcher

import (
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/engine/gvisor/wire"
)

// TestConnect: each connection arrives at the socket that the guest program was started with, and
// leads to the asker.
func TestConnect(t *testing.T) {
	s, f := newServer(t)
	create := wire.Request{Version: wire.Version, Verb: wire.VerbCreate, ID: "sb", Create: &wire.Create{Accepts: true}}
	if answer, file := s.answer(create, f.client); answer.Failure != "" {
		t.Fatal(answer.Error)
	} else {
		file.Close()
	}
	connect := wire.Request{Version: wire.Version, Verb: wire.VerbConnect, ID: "sb"}
	for range 3 {
		answer, host := s.answer(connect, f.client)
		if answer.Failure != "" {
			t.Fatal(answer.Error)
		}
		guest := receive(t, f.runtime.acceptor)
		if _, err := host.WriteString("hello"); err != nil {
			t.Fatal(err)
		}
		host.Close()
		if text, err := io.ReadAll(guest); err != nil || string(text) != "hello" {
			t.Errorf("%q, %v", text, err)
		}
		guest.Close()
	}
	f.runtime.acceptor.Close()
	f.processes.end("sb")
	if answer := f.ask(connect); answer.Failure != wire.FailureDead {
		t.Errorf("a dead one: %+v", answer)
	}
	if answer := f.ask(wire.Request{Verb: wire.VerbDestroy, ID: "sb"}); answer.Failure != "" || len(s.acceptors.files) != 0 {
		t.Errorf("%+v, %d sockets", answer, len(s.acceptors.files))
	}
	if answer := f.ask(connect); answer.Failure != wire.FailureNotFound {
		t.Errorf("none: %+v", answer)
	}
}

// TestConnectIsUnsupported: by a guest program of an earlier release, and after the launcher's
// death, which has taken the socket with it.
func TestConnectIsUnsupported(t *testing.T) {
	_, f := newServer(t)
	f.create("old")
	if answer := f.ask(wire.Request{Verb: wire.VerbConnect, ID: "old"}); answer.Failure != wire.FailureUnsupported {
		t.Errorf("%+v", answer)
	}
	if answer := f.ask(wire.Request{Verb: wire.VerbCreate, ID: "sb", Create: &wire.Create{Accepts: true}}); answer.Failure != "" {
		t.Fatal(answer.Error)
	}
	f.restart()
	if answer := f.ask(wire.Request{Verb: wire.VerbConnect, ID: "sb"}); answer.Failure != wire.FailureUnsupported {
		t.Errorf("%+v", answer)
	}
}

// receive takes the descriptor that was passed over a socket.
func receive(t *testing.T, socket *os.File) *os.File {
	t.Helper()
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(socket.Fd()), make([]byte, 1), control, unix.MSG_DONTWAIT)
	if err != nil {
		t.Fatal(err)
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("%v, %v", fds, err)
	}
	return os.NewFile(uintptr(fds[0]), "connection")
}
