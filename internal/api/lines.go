package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"sync"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// lines writes a process's output as NDJSON, each line at once. A client that reads slowly slows
// the process down when it is lossless; one that reads nothing for middleware.Stall is cut off.
type lines struct {
	api     *api
	ctx     context.Context
	writer  io.Writer
	control *http.ResponseController
	framer  *framer
	timeout string // stderr line for a command that ran into its time limit; empty: none
	head    bool   // the client wants the headers alone
}

// newLines begins the answer.
func (a *api) newLines(c huma.Context, f *framer) *lines {
	r, w := humago.Unwrap(c)
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Cache-Control", "no-cache")
	c.SetStatus(http.StatusOK)
	s := &lines{
		api:     a,
		ctx:     r.Context(),
		writer:  w,
		control: http.NewResponseController(w),
		framer:  f,
		head:    r.Method == http.MethodHead,
	}
	_ = s.control.Flush() // a client that left shows at the first line
	return s
}

// copy writes first and everything after it. An output that stops before its end without an error
// line breaks the connection, so that nobody takes it for whole.
func (s *lines) copy(output control.Output, first stacyvm.OutputEvent) {
	event, err := first, error(nil)
	for ; err == nil && !s.head; event, err = output.Next(s.ctx) {
		if s.event(event) != nil {
			panic(http.ErrAbortHandler) // the client left, or reads nothing
		}
	}
	switch {
	case s.head, errors.Is(err, io.EOF):
		return
	case s.ctx.Err() != nil:
		panic(http.ErrAbortHandler) // the client left, or the server stops
	}
	if s.fault(err) != nil {
		panic(http.ErrAbortHandler)
	}
}

func (s *lines) event(event stacyvm.OutputEvent) error {
	switch {
	case event.Started != nil:
		return nil
	case event.Exit != nil:
		return s.exit(*event.Exit)
	case event.Gap == 0 && len(event.Data) == 0:
		if s.framer.offsets {
			return s.frames([]Frame{{Type: "keepalive"}})
		}
		return nil
	}
	return s.frames(s.framer.frames(event))
}

// lineBuffers hold what one event makes of lines: one is taken only while it is written.
var lineBuffers = sync.Pool{New: func() any { return new([]byte) }}

// mostKept is the largest of those that is used again, in bytes.
const mostKept = 512 << 10

// frames writes the lines of one event at once.
func (s *lines) frames(frames []Frame) error {
	if len(frames) == 0 {
		return nil
	}
	buffer := lineBuffers.Get().(*[]byte)
	text := (*buffer)[:0]
	for _, frame := range frames {
		text = append(frame.AppendJSON(text), '\n')
	}
	_, err := s.writer.Write(text)
	if cap(text) <= mostKept {
		*buffer = text
	}
	lineBuffers.Put(buffer)
	if err != nil {
		return err
	}
	return s.control.Flush()
}

func (s *lines) exit(exit stacyvm.Exit) error {
	err := s.frames(s.framer.end())
	if err == nil && exit.TimedOut && s.timeout != "" {
		err = s.frames([]Frame{s.note(s.timeout)})
	}
	if err == nil {
		err = s.last(lastFrame{Stream: string(stacyvm.Stdout), Exit: exitOf(exit)})
	}
	return err
}

// note is a line of our own on standard error, for clients that look at output alone.
func (s *lines) note(text string) Frame {
	if s.framer.binary {
		return Frame{Stream: string(stacyvm.Stderr), DataBase64: []byte(text)}
	}
	return Frame{Stream: string(stacyvm.Stderr), Data: &text}
}

// fault writes why the output ends here.
func (s *lines) fault(cause error) error {
	e := s.api.wire(s.ctx, cause)
	frame := Frame{Type: "error", Code: e.Code, Error: e.Message}
	if !s.framer.offsets {
		told := s.note(e.Message)
		frame.Stream, frame.Data, frame.DataBase64 = told.Stream, told.Data, told.DataBase64
	}
	return errors.Join(s.frames(s.framer.end()), s.frames([]Frame{frame}))
}

// last writes the last line.
func (s *lines) last(frame lastFrame) error {
	text, err := json.Marshal(frame)
	if err != nil {
		return err
	}
	if _, err := s.writer.Write(append(text, '\n')); err != nil {
		return err
	}
	return s.control.Flush()
}

// copyAll writes an output of which nothing was taken yet.
func (s *lines) copyAll(output control.Output) {
	s.copy(output, stacyvm.OutputEvent{Started: &stacyvm.Process{}})
}
