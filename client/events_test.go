package client_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
)

// eventServer has events 1 to last and cuts each connection after a number of bytes.
type eventServer struct {
	last        int
	cut         func(connection int) int // negative: it ends in order
	connections atomic.Int32
	asked       chan string // the place that each connection came with
}

func (s *eventServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	connection := int(s.connections.Add(1))
	query := r.URL.Query()
	s.asked <- query.Get("last_event_id")
	place := s.last
	if after := query.Get("last_event_id"); after != "" {
		place, _ = strconv.Atoi(strings.TrimPrefix(after, "evt-"))
	}
	var text strings.Builder
	fmt.Fprintf(&text, ":\nid: evt-%d\n\n", place)
	for n := place + 1; n <= s.last; n++ {
		fmt.Fprintf(&text, "id: evt-%d\ndata: {\"id\":\"evt-%d\",\"type\":\"t\",\"data\":{\"n\":%d}}\n\n:\nid: evt-%d\n\n", n, n, n, n)
	}
	answer := text.String()
	if limit := s.cut(connection); limit >= 0 && limit < len(answer) {
		_, _ = w.Write([]byte(answer[:limit]))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write([]byte(answer))
}

func TestEventsSurviveBrokenConnections(t *testing.T) {
	s := &eventServer{last: 40, asked: make(chan string, 1000), cut: func(connection int) int { return 90 + 37*connection }}
	c := newClient(t, s)
	next := 1
	for event, err := range c.Events(t.Context(), client.EventsRequest{After: "0"}) {
		if err != nil {
			t.Fatal(err)
		}
		if event.ID != fmt.Sprintf("evt-%d", next) || event.Type != "t" || event.Data["n"] != float64(next) {
			t.Fatalf("%+v where %d belongs", event, next)
		}
		if next++; next > s.last {
			break
		}
	}
	if next != s.last+1 || s.connections.Load() < 3 {
		t.Errorf("%d events over %d connections", next-1, s.connections.Load())
	}
}

// TestEventsFromNowOn keeps its place from before the first event: what happens while the
// connection is away is not missed.
func TestEventsFromNowOn(t *testing.T) {
	s := &eventServer{last: 7, asked: make(chan string, 1000)}
	s.cut = func(connection int) int {
		if connection == 1 {
			s.last = 9 // meanwhile
		}
		return -1
	}
	c := newClient(t, s)
	var ids []string
	for event, err := range c.Events(t.Context(), client.EventsRequest{}) {
		if err != nil {
			t.Fatal(err)
		}
		if ids = append(ids, event.ID); len(ids) == 2 {
			break
		}
	}
	if first, second := <-s.asked, <-s.asked; !slices.Equal(ids, []string{"evt-8", "evt-9"}) || first != "" || second != "evt-7" {
		t.Errorf("got %v, asked after %q and %q", ids, first, second)
	}
}

func TestEventsWithoutFollow(t *testing.T) {
	s := &eventServer{last: 3, asked: make(chan string, 10), cut: func(int) int { return -1 }}
	c, n := newClient(t, s), 0
	for _, err := range c.Events(t.Context(), client.EventsRequest{After: "evt-1", NoFollow: true}) {
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
	if n != 2 || s.connections.Load() != 1 {
		t.Errorf("%d events over %d connections", n, s.connections.Load())
	}
}

func TestEventsEndWithAnError(t *testing.T) {
	refusing := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"code":"FORBIDDEN","message":"no"}`))
	}))
	garbled := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("data: {\n\n"))
	}))
	nobody, err := client.New("http://127.0.0.1:1", client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	alive, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	for name, tt := range map[string]struct {
		ctx    context.Context
		client *client.Client
		want   func(error) bool
	}{
		"refused":   {alive, refusing, func(err error) bool { return client.CodeOf(err) == client.CodeForbidden }},
		"garbled":   {alive, garbled, func(err error) bool { return err != nil && alive.Err() == nil }},
		"no server": {alive, nobody, func(err error) bool { return errors.Is(err, client.ErrNoServer) }},
		"given up":  {ended, refusing, func(err error) bool { return errors.Is(err, context.Canceled) }},
	} {
		var last error
		for _, err := range tt.client.Events(tt.ctx, client.EventsRequest{}) {
			last = err
		}
		if !tt.want(last) {
			t.Errorf("%s: %v", name, last)
		}
	}
}
