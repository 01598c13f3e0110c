package agent

import (
	"context"
	"errors"
	"os"
	"time"

	"connectrpc.com/connect"
)

// endOfTransmission ends the input of a program on a terminal.
const endOfTransmission = 4

var errInputClosed = connect.NewError(connect.CodeFailedPrecondition, errors.New("standard input is not open"))

// input is the way to a process's standard input. Writers take turns.
type input struct {
	turn     chan struct{} // holds one token: whoever has it writes
	dead     chan struct{} // closed when the process has ended
	file     *os.File      // nil: never open
	terminal bool

	// Guarded by turn.
	received uint64
	closed   bool
	midLine  bool // the last byte was not the end of a line
}

func newInput(dead chan struct{}) *input {
	i := &input{turn: make(chan struct{}, 1), dead: dead}
	i.turn <- struct{}{}
	return i
}

// write takes data into the process's pipe and gives the count of all bytes so far. A nil offset
// appends.
func (i *input) write(ctx context.Context, data []byte, offset *uint64, end bool) (uint64, error) {
	select {
	case <-i.turn:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	defer func() { i.turn <- struct{}{} }()
	if i.file == nil {
		return 0, errInputClosed
	}
	if offset != nil {
		if *offset > i.received {
			return i.received, connect.NewError(
				connect.CodeInvalidArgument,
				errors.New("offset: bytes before it are missing"),
			)
		}
		data = data[min(uint64(len(data)), i.received-*offset):]
	}
	select {
	case <-i.dead:
		i.shut()
	default:
	}
	if i.closed {
		if offset != nil && len(data) == 0 {
			return i.received, nil // a repetition
		}
		return i.received, errInputClosed
	}
	if err := i.put(ctx, data); err != nil {
		return i.received, err
	}
	if end {
		return i.received, i.end(ctx)
	}
	return i.received, nil
}

// put blocks until the pipe took everything or ctx ends.
func (i *input) put(ctx context.Context, data []byte) error {
	if len(data) == 0 {
		return nil
	}
	cut := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = i.file.SetWriteDeadline(time.Unix(1, 0))
		close(cut)
	})
	n, err := i.file.Write(data)
	if !stop() {
		<-cut
	}
	_ = i.file.SetWriteDeadline(time.Time{})
	i.received += uint64(n)
	if n > 0 {
		i.midLine = data[n-1] != '\n'
	}
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil { // nobody reads any more
		i.shut()
		return errInputClosed
	}
	return nil
}

// end closes the input. On a terminal the first end-of-transmission only hands over an unfinished
// line.
func (i *input) end(ctx context.Context) error {
	if i.terminal {
		sign := []byte{endOfTransmission, endOfTransmission}
		received, midLine := i.received, i.midLine
		if !midLine {
			sign = sign[:1]
		}
		err := i.put(ctx, sign)
		i.received = received
		if err != nil {
			i.midLine = midLine
			return err
		}
	}
	i.shut()
	return nil
}

func (i *input) shut() {
	i.closed = true
	if !i.terminal { // the terminal's descriptor is the output's
		i.file.Close()
	}
}

// close ends the input with its process: a writer that waits is woken.
func (i *input) close() {
	if i.file != nil && !i.terminal {
		i.file.Close()
	}
}

// open tells whether writes may succeed; a writer that is just now busy counts as open.
func (i *input) open() bool {
	select {
	case <-i.turn:
		defer func() { i.turn <- struct{}{} }()
		return i.file != nil && !i.closed
	default:
		return true
	}
}
