package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/coder/websocket"
	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/stacyvm/stacyvm/internal/api/middleware"
	"github.com/stacyvm/stacyvm/internal/budget"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

type socketInput struct {
	SandboxPath
	Upgrade string `header:"Upgrade" maxLength:"64"`
}

// execSocket runs a command over a WebSocket. The origin was judged before.
func (a *api) execSocket(_ context.Context, in *socketInput) (*written, error) {
	if !strings.EqualFold(in.Upgrade, "websocket") {
		return nil, stacyvm.Invalid("Upgrade", "must be websocket")
	}
	return &written{func(c huma.Context) {
		r, w := humago.Unwrap(c)
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		if err != nil {
			return // Accept has answered
		}
		conn.SetReadLimit(maxInputBody)
		s := &socket{api: a, conn: conn, sandbox: in.sandbox()}
		s.serve(r.Context())
	}}, nil
}

// firstWithin is how long a client may take to say what to run.
const firstWithin = 30 * time.Second

// socket is one command's connection.
type socket struct {
	api     *api
	conn    *websocket.Conn
	sandbox stacyvm.SandboxID
	process string
	sent    uint64 // bytes of input that the process has taken; only receive uses it
}

// serve ends when the command has ended or the client has left; the process goes on in the latter
// case.
func (s *socket) serve(ctx context.Context) {
	defer s.conn.CloseNow() //nolint:errcheck // closed properly before, unless the client is gone
	request, binary, err := s.first(ctx)
	switch {
	case err != nil && s.brokeOff(ctx, err):
		return
	case err != nil:
		s.close(websocket.StatusInvalidFramePayloadData, s.api.wire(ctx, err).Message)
		return
	}
	output, err := s.api.Service.Run(ctx, s.sandbox, request)
	if err != nil {
		s.refuse(ctx, err)
		return
	}
	defer output.Close()
	started, err := output.Next(ctx)
	if err != nil {
		s.refuse(ctx, err)
		return
	}
	if started.Started != nil {
		s.process = started.Started.ID
	}
	ctx, cancel := context.WithCancel(ctx)
	var receiving sync.WaitGroup
	defer receiving.Wait()
	defer cancel()
	receiving.Go(func() { s.receive(ctx, cancel) })
	if exit := s.copy(ctx, output, newFramer(binary, false)); exit != nil {
		_ = s.send(ctx, lastFrame{Type: "done", Exit: exitOf(*exit)}) // a client that left is not told
		s.close(websocket.StatusNormalClosure, "")
	}
}

// first reads and checks the exec body.
func (s *socket) first(ctx context.Context) (request control.ExecRequest, binary bool, err error) {
	limit, cancel := context.WithTimeout(ctx, firstWithin)
	defer cancel()
	text, err := s.read(limit)
	if err != nil {
		return request, false, err
	}
	defer budget.From(ctx).Give()
	exec, err := validated[Exec](s.api, s.api.execSchema, text)
	if err != nil {
		return request, false, err
	}
	if binary, err = encodingOf(exec.Encoding); err != nil {
		return request, false, err
	}
	request, err = exec.request(true)
	return request, binary, err
}

// read gives the next message. It counts against the memory budget until that is given back.
func (s *socket) read(ctx context.Context) ([]byte, error) {
	kind, message, err := s.conn.Reader(ctx)
	if err != nil {
		return nil, err
	}
	if kind != websocket.MessageText {
		return nil, stacyvm.Errorf(
			stacyvm.CodeInvalid,
			"a message must be JSON in a text frame; bytes go in data_base64",
		)
	}
	return io.ReadAll(budget.NewReader(message, budget.From(ctx), middleware.BodyCopies))
}

// brokeOff reports whether a read failed because the client left, or because what it sent is no
// WebSocket's: such a connection is closed with 1002.
func (s *socket) brokeOff(ctx context.Context, err error) bool {
	if _, ours := errors.AsType[*stacyvm.Error](err); ours {
		return false
	}
	s.api.Logger.Debug("a WebSocket broke off", "id", middleware.RequestID(ctx), "error", err)
	var network net.Error
	left := websocket.CloseStatus(err) != -1 || ctx.Err() != nil ||
		errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.As(err, &network)
	if !left {
		s.close(websocket.StatusProtocolError, "") // once more changes nothing, where the library has
	}
	return true
}

// refuse tells why a command cannot start.
func (s *socket) refuse(ctx context.Context, err error) {
	e := s.api.wire(ctx, err)
	_ = s.send(ctx, Frame{Error: e.Message, Code: e.Code}) // a client that left is not told
	s.close(websocket.StatusInternalError, e.Code)
}

// close shakes hands; a reason has room for 123 bytes.
func (s *socket) close(code websocket.StatusCode, reason string) {
	if len(reason) > 123 {
		reason = strings.ToValidUTF8(reason[:123], "")
	}
	_ = s.conn.Close(code, reason) // the client may be gone
}

// copy sends output until the exit, which it gives; nil: the client left or the output broke off.
func (s *socket) copy(ctx context.Context, output control.Output, f *framer) *stacyvm.Exit {
	for {
		event, err := output.Next(ctx)
		switch {
		case errors.Is(err, io.EOF) || ctx.Err() != nil:
			return nil
		case err != nil:
			s.refuse(ctx, err)
			return nil
		}
		frames := f.frames(event)
		if event.Exit != nil {
			frames = f.end()
		}
		for _, frame := range frames {
			if s.send(ctx, frame) != nil {
				return nil
			}
		}
		if event.Exit != nil {
			return event.Exit
		}
	}
}

func (s *socket) send(ctx context.Context, frame any) error {
	text, err := []byte(nil), error(nil)
	if output, ok := frame.(Frame); ok {
		text = output.AppendJSON(nil)
	} else if text, err = json.Marshal(frame); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, middleware.Stall)
	defer cancel()
	return s.conn.Write(ctx, websocket.MessageText, text)
}

// Message is what a client may send after the first message.
type Message struct {
	Type       string  `json:"type" maxLength:"16" doc:"stdin, close, resize or signal."`
	Data       *string `json:"data,omitempty" doc:"Of stdin, as text."`
	DataBase64 *string `json:"data_base64,omitempty" doc:"Of stdin."`
	Rows       uint16  `json:"rows,omitempty" doc:"Of resize."`
	Cols       uint16  `json:"cols,omitempty"`
	Signal     string  `json:"signal,omitempty" maxLength:"16" doc:"Such as TERM."`
}

// receive obeys the client's messages until it leaves. What cannot be done is told and changes
// nothing else.
func (s *socket) receive(ctx context.Context, left context.CancelFunc) {
	defer left()
	for {
		text, err := s.read(ctx)
		if err != nil {
			if !s.brokeOff(ctx, err) {
				s.refuse(ctx, err)
			}
			return
		}
		message, err := validated[Message](s.api, s.api.messageSchema, text)
		if err == nil {
			err = s.obey(ctx, message)
		}
		budget.From(ctx).Give()
		if err != nil {
			e := s.api.wire(ctx, err)
			if s.send(ctx, Frame{Type: "error", Error: e.Message, Code: e.Code}) != nil {
				return
			}
		}
	}
}

func (s *socket) obey(ctx context.Context, m Message) error {
	service := s.api.Service
	switch m.Type {
	case "stdin":
		data, err := bytesOf("data", m.Data, m.DataBase64)
		if err != nil {
			return err
		}
		// With the offset, a message that was answered with an error can be sent again.
		_, err = service.Input(ctx, s.sandbox, s.process, control.InputRequest{Data: data, Offset: &s.sent})
		if err == nil {
			s.sent += uint64(len(data))
		}
		return err
	case "close":
		_, err := service.Input(ctx, s.sandbox, s.process, control.InputRequest{Offset: &s.sent, Close: true})
		return err
	case "resize":
		return service.Resize(ctx, s.sandbox, s.process, stacyvm.Terminal{Rows: m.Rows, Cols: m.Cols})
	case "signal":
		number, err := control.SignalNumber(m.Signal)
		if err != nil {
			return err
		}
		return service.Signal(ctx, s.sandbox, s.process, number)
	}
	return stacyvm.Invalid("type", "%.20q is none of stdin, close, resize, signal", m.Type)
}
