package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/stacyvm/stacyvm/internal/control/audit"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// eventHeartbeat is how long a stream of events stays without a byte.
const eventHeartbeat = 15 * time.Second

// Event is one thing that happened.
type Event struct {
	ID        string         `json:"id" example:"evt-17" doc:"Its place; ask with it for what came after."`
	Type      string         `json:"type" example:"sandbox.running"`
	SandboxID string         `json:"sandbox_id,omitempty"`
	Timestamp time.Time      `json:"timestamp"`
	Data      map[string]any `json:"data,omitempty" doc:"Depends on the type; see docs/api.md."`
}

func eventOf(n stacyvm.Event) Event {
	return Event{
		ID: stacyvm.EventID(
			n.Number,
		),
		Type:      string(n.Kind),
		SandboxID: string(n.SandboxID),
		Timestamp: n.CreatedAt.UTC(),
		Data:      n.Data,
	}
}

type eventsInput struct {
	// The header wins: a browser that comes back sends it along with the address that it was first
	// given.
	Last   string `header:"Last-Event-ID" maxLength:"64" doc:"Continue after this event. Without one, what happens from now on is sent; 0 is everything that is kept."`
	After  string `query:"last_event_id" maxLength:"64" doc:"The same, where no header can be set."`
	Follow bool   `query:"follow" default:"true" doc:"false: end after what is there now."`
}

func (in *eventsInput) place() (int64, error) {
	switch {
	case in.Last != "":
		return stacyvm.ParseEventID("Last-Event-ID", in.Last)
	case in.After != "":
		return stacyvm.ParseEventID("last_event_id", in.After)
	}
	return audit.Latest, nil
}

func (a *api) eventRoutes() {
	register(a, route{method: http.MethodGet, path: "/events", id: "events", tag: tagSystem, stream: true,
		summary: "What happens, as server-sent events, from a place on and without end",
		responses: map[string]*huma.Response{"200": {
			Description: "Each event's data is one line of JSON; its id is the place to continue after.",
			Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: a.schema(reflect.TypeFor[Event]())}},
		}}}, a.events)
}

func (a *api) events(ctx context.Context, in *eventsInput) (*written, error) {
	place, err := in.place()
	if err != nil {
		return nil, err
	}
	subscription, err := a.Service.Events(ctx, place)
	if err != nil {
		return nil, err
	}
	return &written{func(c huma.Context) {
		defer subscription.Close()
		r, w := humago.Unwrap(c)
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("X-Accel-Buffering", "no") // of nginx, which would keep events back
		c.SetStatus(http.StatusOK)
		if r.Method == http.MethodHead {
			return
		}
		s := eventStream{w, http.NewResponseController(w), subscription, in.Follow}
		if err := s.copy(r.Context()); err != nil && r.Context().Err() == nil {
			a.Logger.Warn("a stream of events ended", "error", err) // its reader comes back with its place
		}
	}}, nil
}

// eventStream writes events as they come. One that cannot go on ends: readers reconnect by
// themselves.
type eventStream struct {
	writer       io.Writer
	control      *http.ResponseController
	subscription *audit.Subscription
	follow       bool
}

// copy returns when ctx ends, the reader left or took nothing for middleware.Stall, or the store
// fails.
func (s eventStream) copy(ctx context.Context) error {
	if s.beat() != nil { // the reader left
		return nil
	}
	for {
		waiting, cancel := context.WithTimeout(ctx, eventHeartbeat)
		event, err := s.next(waiting)
		silent := waiting.Err() != nil
		cancel()
		write := s.beat
		switch {
		case ctx.Err() != nil: // the reader left, or the server stops
			return nil
		case err == nil && event == nil: // that was all
			return nil
		case err == nil:
			write = func() error { return s.event(event) }
		case !silent:
			return err
		}
		if write() != nil { // the reader left
			return nil
		}
	}
}

// next is nil when that was all.
func (s eventStream) next(ctx context.Context) (*audit.Entry, error) {
	if !s.follow {
		return s.subscription.Now(ctx)
	}
	return s.subscription.Next(ctx)
}

// beat is a comment, and the place that a reader which saw nothing comes back with.
func (s eventStream) beat() error {
	return s.write([]byte(":\nid: " + stacyvm.EventID(s.subscription.Place()) + "\n\n"))
}

func (s eventStream) event(e *audit.Entry) error {
	text, err := e.Text(eventText)
	if err != nil {
		return err
	}
	if s.subscription.Held() > 0 { // more comes at once
		_, err := s.writer.Write(text)
		return err
	}
	return s.write(text)
}

// eventText is an event as server-sent events have it.
func eventText(e stacyvm.Event) ([]byte, error) {
	var text bytes.Buffer
	text.WriteString("id: " + stacyvm.EventID(e.Number) + "\ndata: ")
	if err := json.NewEncoder(&text).Encode(eventOf(e)); err != nil { // ends with a line's end, and has no other
		return nil, err
	}
	text.WriteByte('\n')
	return text.Bytes(), nil
}

func (s eventStream) write(text []byte) error {
	if _, err := s.writer.Write(text); err != nil {
		return err
	}
	return s.control.Flush()
}
