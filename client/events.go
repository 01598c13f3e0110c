package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Event is one thing that happened on the server. (A piece of a process's output is an
// OutputEvent.)
type Event struct {
	ID        string         `json:"id"`   // its place: give it to Events for what came after
	Type      string         `json:"type"` // such as sandbox.running; docs/api.md lists them
	SandboxID string         `json:"sandbox_id,omitempty"`
	Timestamp time.Time      `json:"timestamp"`
	Data      map[string]any `json:"data,omitempty"`
}

// EventsRequest says from where to read what happens.
type EventsRequest struct {
	After    string // an event's ID; empty: from now on; "0": everything that is kept
	NoFollow bool   // end after what is there now
}

// Events gives what happens on the server, in order and without end (with NoFollow: what is there
// now). A connection that breaks, or a server that restarts within the client's patience, is met
// by reading on after the last event, so that none is missed; one may come twice. An event of type
// events.missed says that the server no longer kept what came before it. An error is the last
// thing that comes.
func (c *Client) Events(ctx context.Context, from EventsRequest) iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		reader := eventReader{client: c, last: from.After, follow: !from.NoFollow, yield: yield}
		if err := reader.run(ctx); err != nil && !errors.Is(err, errStopped) {
			yield(Event{}, err)
		}
	}
}

// eventsAgain is the pause before a stream that was good is opened again.
const eventsAgain = 200 * time.Millisecond

type eventReader struct {
	client *Client
	last   string // the place to come back to
	follow bool
	yield  func(Event, error) bool
	ended  bool
	good   bool // the present connection gave something
	before bool // an earlier one did
}

// run connects again and again; a connection that gave anything renews the client's patience.
func (e *eventReader) run(ctx context.Context) error {
	for {
		reading := request{repeat: true, patient: e.before} // a first one that finds no server says so at once
		err := e.client.persist(ctx, reading, func() error {
			err := e.connect(ctx)
			e.before = e.before || e.good
			if e.good && again(err, reading) {
				err = nil
			}
			return err
		})
		if err != nil || e.ended {
			return err
		}
		if !sleep(ctx, eventsAgain) {
			return context.Cause(ctx)
		}
	}
}

// connect reads one connection to its end.
func (e *eventReader) connect(ctx context.Context) error {
	e.good = false
	query := url.Values{"follow": {strconv.FormatBool(e.follow)}}
	if e.last != "" {
		query.Set("last_event_id", e.last)
	}
	response, err := e.client.send(
		ctx,
		request{
			method: http.MethodGet,
			path:   "/events",
			query:  query,
			header: map[string]string{"Accept": "text/event-stream"},
		},
	)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(make([]byte, 64<<10), maxLine)
	var id string
	var data []byte
	for lines.Scan() {
		e.good = true
		field, value, _ := bytes.Cut(lines.Bytes(), []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch {
		case len(lines.Bytes()) == 0:
			if err := e.event(id, data); err != nil {
				return err
			}
			id, data = "", nil
		case string(field) == "id":
			id = string(value)
		case string(field) == "data":
			data = append(data, value...)
		}
	}
	return e.endOf(ctx, lines.Err())
}

// event takes what stood between two empty lines. One without data tells the place alone.
func (e *eventReader) event(id string, data []byte) error {
	if len(data) > 0 {
		var n Event
		if err := json.Unmarshal(data, &n); err != nil {
			return fmt.Errorf("the server sent an event that cannot be read: %w", err)
		}
		if !e.yield(n, nil) {
			e.ended = true
			return errStopped
		}
	}
	if id != "" {
		e.last = id
	}
	return nil
}

// endOf judges a connection that ended.
func (e *eventReader) endOf(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("the server sent a line of more than %d bytes", maxLine)
	case err == nil && !e.follow:
		e.ended = true
		return nil
	case err == nil:
		err = io.ErrUnexpectedEOF
	}
	return broken(err)
}
