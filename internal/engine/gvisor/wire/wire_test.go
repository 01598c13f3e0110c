package wire

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// connect gives both ends of a Unix socket.
func connect(t *testing.T) (client, server *net.UnixConn) {
	t.Helper()
	// A directory name that no socket address can hold: Dial must not depend on its length.
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: Socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	client, err = Dial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	server, err = listener.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close(); server.Close() })
	return client, server
}

func TestRequestAndAnswer(t *testing.T) {
	client, server := connect(t)
	want := Request{Verb: VerbDial, ID: "sb_1", Port: 80, Create: &Create{CPUs: 1.5, Labels: map[string]string{"a": "b"}}}
	if err := WriteRequest(client, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadRequest(server)
	if err != nil || got.Version != Version || got.Port != 80 || got.Create.Labels["a"] != "b" {
		t.Fatalf("got %+v, %v", got, err)
	}

	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	if err := WriteAnswer(server, Answer{Build: "x"}, write); err != nil {
		t.Fatal(err)
	}
	write.Close()
	answer, file, err := ReadAnswer(client)
	if err != nil || file == nil || answer.Build != "x" {
		t.Fatalf("got %+v, %v, %v", answer, file, err)
	}
	if _, err := file.WriteString("through"); err != nil {
		t.Fatal(err)
	}
	file.Close()
	if text, _ := io.ReadAll(read); string(text) != "through" {
		t.Fatalf("the passed descriptor is another: read %q", text)
	}
}

func TestBounds(t *testing.T) {
	client, server := connect(t)
	if err := WriteRequest(client, Request{Verb: strings.Repeat("v", maxRequest)}); err == nil {
		t.Error("a request over the limit was sent")
	}
	if _, err := client.Write(binary.BigEndian.AppendUint32(nil, maxRequest+1)); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadRequest(server); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a length over the limit was accepted: %v", err)
	}
}

func TestEndOfClient(t *testing.T) {
	client, server := connect(t)
	client.Close()
	if _, err := ReadRequest(server); !errors.Is(err, io.EOF) {
		t.Fatalf("got %v", err)
	}
}

func TestValidID(t *testing.T) {
	for id, want := range map[string]bool{
		"sb_ABC234": true, "a": true, "": false, ".": false, "..": false, ".hidden": false, "-flag": false, "a/b": false,
		"a b": false, "a\x00": false, "ä": false, strings.Repeat("a", 64): true, strings.Repeat("a", 65): false,
	} {
		if ValidID(id) != want {
			t.Errorf("ValidID(%q) = %v", id, !want)
		}
	}
}

// TestDialIsBounded: a launcher that accepts nobody is waited for as long as the caller wants, and
// a caller who has left asks nobody.
func TestDialIsBounded(t *testing.T) {
	dir := t.TempDir()
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := errors.Join(syscall.Bind(fd, &syscall.SockaddrUnix{Name: filepath.Join(dir, Socket)}), syscall.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	var last error
	for range 3 { // the first ones are in the queue
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		conn, err := Dial(ctx, dir)
		if last = err; err == nil {
			defer conn.Close()
		}
		cancel()
	}
	if !errors.Is(last, context.DeadlineExceeded) && !errors.Is(last, os.ErrDeadlineExceeded) {
		t.Errorf("a full queue: %v", last)
	}
	left, leave := context.WithCancel(t.Context())
	leave()
	if conn, err := Dial(left, dir); err == nil {
		conn.Close()
		t.Error("a caller who has left is connected")
	}
}
