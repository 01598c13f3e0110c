package wire

import (
	"encoding/binary"
	"encoding/json"
	"net"
	"os"
	"syscall"
	"testing"
	"time"
)

// FuzzMessages sends bytes to both ends of the launcher's protocol. They refuse them or read what
// they would send themselves.
func FuzzMessages(f *testing.F) {
	framed := func(message any) []byte {
		body, err := json.Marshal(message)
		if err != nil {
			f.Fatal(err)
		}
		return append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), body...)
	}
	f.Add(framed(Request{Version: Version, Verb: VerbDial, ID: "sb_1", Port: 80, Create: &Create{CPUs: 1.5, Labels: map[string]string{"a": "b"}}}))
	f.Add(framed(Answer{Build: "x"}))
	f.Add(binary.BigEndian.AppendUint32(nil, maxAnswer+1))
	f.Add([]byte{0, 0, 0})
	f.Add([]byte{0, 0, 0, 2, '{'})
	f.Fuzz(func(t *testing.T, sent []byte) {
		if request, err := ReadRequest(arriving(t, sent)); err == nil {
			if _, err := json.Marshal(request); err != nil {
				t.Fatal(err)
			}
		}
		answer, file, err := ReadAnswer(arriving(t, sent))
		if file != nil {
			t.Fatal("a descriptor that nobody sent")
		}
		if err == nil {
			if _, err := json.Marshal(answer); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// arriving is the end of a connection whose other end sent the bytes and has closed.
func arriving(t *testing.T, sent []byte) *net.UnixConn {
	t.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range pair {
		file := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		ends[i] = conn.(*net.UnixConn)
	}
	t.Cleanup(func() { ends[0].Close() })
	if err := ends[1].SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = ends[1].Write(sent); ends[1].Close() }()
	return ends[0]
}
