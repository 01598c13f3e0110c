package wire

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/retry"
)

const (
	maxRequest = 1 << 20
	// busyPause is the time between two tries to get into the launcher's queue.
	busyPause = 10 * time.Millisecond
	maxAnswer = 16 << 20 // a list of very many sandboxes with their labels
)

// Dial connects to the launcher in dir, which does not accept while it is stopped or has very many
// callers. It goes through an open directory, because the path itself may be longer than a socket
// address.
func Dial(ctx context.Context, dir string) (*net.UnixConn, error) {
	handle, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer handle.Close()
	short := filepath.Join("/proc/self/fd", strconv.Itoa(int(handle.Fd())), Socket)
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "unix", short)
		if err == nil {
			return conn.(*net.UnixConn), nil
		}
		if !errors.Is(err, syscall.EAGAIN) { // the queue of callers is full
			return nil, err
		}
		if retry.Sleep(ctx, busyPause) != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
	}
}

// Closed reports whether the peer has closed its end of a connection, or the connection is broken.
func Closed(conn *net.UnixConn) bool {
	raw, err := conn.SyscallConn()
	if err != nil {
		return true
	}
	closed := true // what cannot be looked at is closed here
	_ = raw.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}, 0)
		closed = err == nil && n > 0
	})
	return closed
}

// WriteRequest sends a request.
func WriteRequest(conn *net.UnixConn, request Request) error {
	request.Version = Version
	return write(conn, request, maxRequest, nil)
}

// ReadRequest receives a request. io.EOF: the client is done.
func ReadRequest(conn *net.UnixConn) (Request, error) {
	var request Request
	files, err := read(conn, &request, maxRequest)
	closeAll(files)
	return request, err
}

// WriteAnswer sends an answer, with file beside it unless it is nil. file stays open here.
func WriteAnswer(conn *net.UnixConn, answer Answer, file *os.File) error {
	return write(conn, answer, maxAnswer, file)
}

// ReadAnswer receives an answer and the descriptor beside it; file is nil when there was none.
func ReadAnswer(conn *net.UnixConn) (answer Answer, file *os.File, err error) {
	files, err := read(conn, &answer, maxAnswer)
	if err == nil && len(files) == 1 {
		return answer, files[0], nil
	}
	closeAll(files)
	if len(files) > 1 {
		err = errors.Join(err, fmt.Errorf("%d descriptors beside one answer", len(files)))
	}
	return answer, nil, err
}

func write(conn *net.UnixConn, message any, limit int, file *os.File) error {
	body, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(body) > limit {
		return fmt.Errorf("message of %d bytes is over %d", len(body), limit)
	}
	var rights []byte
	if file != nil {
		rights = syscall.UnixRights(int(file.Fd()))
	}
	size := binary.BigEndian.AppendUint32(nil, uint32(len(body)))
	if _, _, err := conn.WriteMsgUnix(size, rights, nil); err != nil {
		return err
	}
	_, err = conn.Write(body)
	return err
}

func read(conn *net.UnixConn, message any, limit int) ([]*os.File, error) {
	var size [4]byte
	rights := make([]byte, syscall.CmsgSpace(4*4))
	n, oobn, _, _, err := conn.ReadMsgUnix(size[:], rights)
	if errors.Is(err, io.EOF) || err == nil && n == 0 {
		return nil, io.EOF
	}
	if err != nil {
		return nil, err
	}
	files, err := descriptors(rights[:oobn])
	if err != nil {
		return files, err
	}
	if _, err := io.ReadFull(conn, size[n:]); err != nil {
		return files, err
	}
	length := binary.BigEndian.Uint32(size[:])
	if int64(length) > int64(limit) {
		return files, fmt.Errorf("message of %d bytes is over %d", length, limit)
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(conn, body); err != nil {
		return files, err
	}
	return files, json.Unmarshal(body, message)
}

func descriptors(rights []byte) ([]*os.File, error) {
	messages, err := syscall.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	var files []*os.File
	for _, message := range messages {
		fds, err := syscall.ParseUnixRights(&message)
		if err != nil {
			return files, err
		}
		for _, fd := range fds {
			files = append(files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	return files, nil
}

func closeAll(files []*os.File) {
	for _, file := range files {
		file.Close()
	}
}
