package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/client"
)

// errLeft: reading was ended from here.
var errLeft = errors.New("no longer reading")

// inputReader reads a file of any kind, and can be told to stop while a read waits.
type inputReader struct {
	file        *os.File
	wake, waker *os.File // a pipe; closing waker ends every read
}

func newInputReader(file *os.File) (*inputReader, error) {
	wake, waker, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("read standard input: %w", err)
	}
	return &inputReader{file, wake, waker}, nil
}

// Read waits for bytes, the end of the file, or stop.
func (r *inputReader) Read(buffer []byte) (int, error) {
	waiting := []unix.PollFd{
		{Fd: int32(r.file.Fd()), Events: unix.POLLIN},
		{Fd: int32(r.wake.Fd()), Events: unix.POLLIN},
	}
	for {
		_, err := unix.Poll(waiting, -1)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return 0, fmt.Errorf("wait for input: %w", err)
		case waiting[1].Revents != 0:
			return 0, errLeft
		}
		return r.file.Read(buffer)
	}
}

// stop ends a Read that waits, and every later one.
func (r *inputReader) stop() { _ = r.waker.Close() } // closing a pipe's end cannot fail in a way that matters

func (r *inputReader) close() { _ = r.wake.Close() }

// pumpInput passes standard input on until it ends, the process no longer wants it, or ctx ends.
func (s *session) pumpInput(ctx context.Context, reader *inputReader, leave context.CancelCauseFunc) {
	defer reader.close()
	keys := detachKeys{active: s.tty}
	buffer := make([]byte, 32<<10)
	for {
		n, readErr := reader.Read(buffer)
		typed, detach := keys.filter(buffer[:n])
		if err := s.input.Write(ctx, typed); err != nil {
			s.inputFailed(ctx, err)
			return
		}
		switch {
		case detach:
			leave(errDetached)
			return
		case errors.Is(readErr, errLeft):
			return
		case readErr != nil: // its end; a terminal that is gone is one too
			if !errors.Is(readErr, io.EOF) {
				s.app.warn("read standard input: %v", readErr)
			}
			if err := s.input.Close(ctx); err != nil {
				s.inputFailed(ctx, err)
			}
			return
		}
	}
}

// inputFailed warns, unless the process has just ended or closed its input itself.
func (s *session) inputFailed(ctx context.Context, err error) {
	code := client.CodeOf(err)
	if ctx.Err() == nil && code != client.CodeConflict && code != client.CodeNotFound {
		s.app.warn("standard input is no longer passed on: %v", err)
	}
}
