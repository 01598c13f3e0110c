package guest

import (
	"math"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// maxData is the most that one data frame holds that is sent, and of an answer to a request that
// does not take more, in bytes.
const maxData = 64 << 10

// place is how far a process's output has been read. Each event must follow the one before it: a
// guest that goes back, leaves bytes out without a gap or overflows has broken the stream.
type place struct {
	process        string // the caller's name for it; empty: the guest chose
	stdout, stderr uint64 // offsets of the next bytes
	most           int    // bytes of a data frame
}

// event reads one event.
func (p *place) event(message *guestv1.ProcessEvent) (stacyvm.OutputEvent, error) {
	switch e := message.GetEvent().(type) {
	case *guestv1.ProcessEvent_Started:
		started := process(e.Started, p.process)
		return stacyvm.OutputEvent{Started: &started}, nil
	case *guestv1.ProcessEvent_Data:
		data := e.Data.GetData()
		if len(data) > p.most {
			return stacyvm.OutputEvent{}, nonsense("a data frame is too large")
		}
		stream, err := p.advance(e.Data.GetStream(), e.Data.GetOffset(), uint64(len(data)))
		return stacyvm.OutputEvent{Stream: stream, Offset: e.Data.GetOffset(), Data: data}, err
	case *guestv1.ProcessEvent_Gap:
		stream, err := p.advance(e.Gap.GetStream(), e.Gap.GetOffset(), e.Gap.GetBytes())
		return stacyvm.OutputEvent{Stream: stream, Offset: e.Gap.GetOffset(), Gap: e.Gap.GetBytes()}, err
	case *guestv1.ProcessEvent_Exit:
		if p.stdout < e.Exit.GetStdoutBytes() || p.stderr < e.Exit.GetStderrBytes() {
			return stacyvm.OutputEvent{}, nonsense("an exit counts bytes that did not come")
		}
		return stacyvm.OutputEvent{Exit: exit(e.Exit)}, nil
	}
	return stacyvm.OutputEvent{}, nil // a keepalive, or what a newer guest says
}

// events reads the events of a stream.
type events struct {
	stream  *receiver
	raw     *raw
	at      place
	begun   bool      // connect has seen the answer's head
	buffers [2][]byte // for data, in turn: one event is read ahead of the reader
}

// next gives the next event; false: there is none, the stream's error says why.
func (e *events) next() (event stacyvm.OutputEvent, more bool, err error) {
	if e.begun {
		var p piece
		usual, err := e.raw.next(p.shape)
		if err != nil {
			return event, false, err
		}
		if usual {
			event, err = e.data(p)
			return event, err == nil, err
		}
	}
	e.begun = true
	if !e.stream.Receive() {
		return event, false, nil
	}
	event, err = e.at.event(e.stream.Msg())
	return event, err == nil, err
}

// data reads the bytes of a piece.
func (e *events) data(p piece) (event stacyvm.OutputEvent, err error) {
	size := e.raw.left
	if size > e.at.most {
		return event, nonsense("a data frame is too large")
	}
	stream, err := e.at.advance(p.stream, p.offset, uint64(size)) //nolint:gosec // not negative
	if err != nil {
		return event, err
	}
	e.buffers[0], e.buffers[1] = e.buffers[1], e.buffers[0]
	if cap(e.buffers[0]) < size {
		e.buffers[0] = make([]byte, min(e.at.most, max(size, 2*cap(e.buffers[0]))))
	}
	data := e.buffers[0][:size]
	for read := 0; read < size; {
		n, err := e.raw.data(data[read:])
		if err != nil {
			return event, err
		}
		read += n
	}
	return stacyvm.OutputEvent{Stream: stream, Offset: p.offset, Data: data}, nil
}

// advance moves the place in one stream by n bytes.
func (p *place) advance(stream guestv1.Stream, offset, n uint64) (stacyvm.Stream, error) {
	name, next := stacyvm.Stdout, &p.stdout
	switch stream {
	case guestv1.Stream_STREAM_STDOUT:
	case guestv1.Stream_STREAM_STDERR:
		name, next = stacyvm.Stderr, &p.stderr
	default:
		return "", nonsense("an event names an unknown stream")
	}
	// An offset is a number of JSON for clients: below 2^63 it fits everywhere.
	if offset != *next || n > math.MaxInt64-offset {
		return "", nonsense("an offset does not follow the one before")
	}
	*next = offset + n
	return name, nil
}
