package api_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/api"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// listener is an open stream of events.
type listener struct {
	t      *testing.T
	answer *http.Response
	lines  *bufio.Scanner
}

func (f *fixture) listen(ctx context.Context, query string, headers ...string) *listener {
	f.t.Helper()
	request, err := http.NewRequestWithContext(ctx, "GET", f.server.URL+"/api/v1/events"+query, nil)
	must(f.t, err)
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	answer, err := f.client.Do(request)
	must(f.t, err)
	f.t.Cleanup(func() { _ = answer.Body.Close() })
	if answer.StatusCode != http.StatusOK {
		f.t.Fatalf("events: %d", answer.StatusCode)
	}
	return &listener{f.t, answer, bufio.NewScanner(answer.Body)}
}

// next reads one event with its id line; ok is false at the end of the stream.
func (l *listener) next() (event api.Event, ok bool) {
	l.t.Helper()
	id := ""
	for l.lines.Scan() {
		line := l.lines.Text()
		switch {
		case strings.HasPrefix(line, "id: "):
			id = line[4:]
		case strings.HasPrefix(line, "data: "):
			must(l.t, json.Unmarshal([]byte(line[6:]), &event))
			if event.ID != id || !l.lines.Scan() || l.lines.Text() != "" {
				l.t.Fatalf("event %+v under id %q, then %q", event, id, l.lines.Text())
			}
			return event, true
		}
	}
	return event, false
}

func (l *listener) take(n int) (events []api.Event) {
	l.t.Helper()
	for range n {
		event, ok := l.next()
		if !ok {
			l.t.Fatalf("the stream ended after %d of %d events: %v", len(events), n, l.lines.Err())
		}
		events = append(events, event)
	}
	return events
}

func typesOf(events []api.Event) (types []string) {
	for _, e := range events {
		types = append(types, e.Type)
	}
	return types
}

func TestEventsTellWhatHappens(t *testing.T) {
	f := start(t, nil, nil)
	l := f.listen(t.Context(), "")
	for name, want := range map[string]string{"Content-Type": "text/event-stream", "Cache-Control": "no-cache"} {
		if got := l.answer.Header.Get(name); got != want {
			t.Errorf("%s is %q", name, got)
		}
	}
	sandbox := f.spawn()
	path := "/api/v1/sandboxes/" + sandbox.ID
	f.do("POST", path+"/processes", `{"command":"sleep 0.01; exit 4"}`) // nobody reads its output
	if detached := l.take(4); detached[3].Type != "exec.completed" || detached[3].Data["exit_code"] != 4.0 || detached[2].Type != "exec.started" {
		t.Errorf("of a detached command was told %+v", detached)
	}
	for _, command := range []string{`{"command":"exit 3"}`, `{"command":"/no/such/program","mode":"argv"}`, `{"command":"sleep 60","timeout":"200ms"}`} {
		f.do("POST", path+"/exec", command)
	}
	f.do("POST", path+"/files", `{"path":"a","content":"x"}`)
	f.do("GET", path+"/files?path=a", nil)
	f.do("GET", path+"/files?path=none", nil) // a caller's mistake is not an event
	events := l.take(8)
	f.do("DELETE", path, nil)
	events = append(events, l.take(1)...)
	want := []string{
		"exec.started", "exec.completed", "exec.started", "exec.failed", "exec.started", "exec.timeout",
		"file.written", "file.read", "sandbox.destroyed",
	}
	if !slices.Equal(typesOf(events), want) {
		t.Fatalf("told of %v, want %v", typesOf(events), want)
	}
	for _, e := range events {
		if e.SandboxID != sandbox.ID || !strings.HasPrefix(e.ID, "evt-") || time.Since(e.Timestamp).Abs() > time.Minute {
			t.Errorf("event %+v", e)
		}
	}
	if d := events[1].Data; d["exit_code"] != 3.0 || d["process_id"] != events[0].Data["process_id"] || d["process_id"] == nil {
		t.Errorf("completed with %v", d)
	}
	if events[3].Data["exit_code"] != 127.0 || events[6].Data["path"] != "a" || events[8].Data["provider"] != "mock" {
		t.Errorf("data: %v, %v, %v", events[3].Data, events[6].Data, events[8].Data)
	}
}

// tellOf writes numbered events of a tenant.
func (f *fixture) tellOf(tenant string, from, to int) {
	f.t.Helper()
	var events []stacyvm.Event
	for n := from; n < to; n++ {
		events = append(events, stacyvm.Event{Kind: stacyvm.KindExecStarted, TenantID: tenant, Data: map[string]any{"n": n}})
	}
	controltest.Update(f.t, f.store, func(tx store.Tx) error { return tx.Events().Append(f.t.Context(), events) })
}

func TestEventsFromAPlaceOn(t *testing.T) {
	f := start(t, nil, nil)
	f.tellOf("acme", 1, 4)
	f.tellOf("other", 4, 6)
	tests := map[string]struct {
		query   string
		headers []string
		want    string
	}{
		"everything":               {"?last_event_id=0&follow=false", nil, "1 2 3 4 5"},
		"from now on":              {"?follow=false", nil, ""},
		"after":                    {"?follow=false&last_event_id=evt-3", nil, "4 5"},
		"without its prefix":       {"?follow=false", []string{"Last-Event-ID", "4"}, "5"},
		"the header wins":          {"?follow=false&last_event_id=0", []string{"Last-Event-ID", "evt-4"}, "5"},
		"a tenant's":               {"?follow=false&last_event_id=0", []string{"X-Tenant-ID", "acme"}, "1 2 3"},
		"ahead of everything":      {"?follow=false&last_event_id=evt-99", nil, "missed"},
		"another tenant's, no one": {"?follow=false&last_event_id=0", []string{"X-Tenant-ID", "none"}, ""},
	}
	for name, tt := range tests {
		l := f.listen(t.Context(), tt.query, tt.headers...)
		var got []string
		for event, ok := l.next(); ok; event, ok = l.next() {
			if event.Type == string(stacyvm.KindMissed) {
				got = append(got, "missed")
				continue
			}
			got = append(got, fmt.Sprint(event.Data["n"]))
		}
		if strings.Join(got, " ") != tt.want || l.lines.Err() != nil {
			t.Errorf("%s: %v, %v", name, got, l.lines.Err())
		}
	}
	for _, bad := range []string{"x", "-1", "evt-", "99999999999999999999"} {
		answer := f.do("GET", "/api/v1/events?last_event_id="+bad, nil)
		if code, message := answer.refusal(t); answer.StatusCode != 400 || code != "BAD_REQUEST" || !strings.HasPrefix(message, "last_event_id: ") {
			t.Errorf("%q: %d %s %s", bad, answer.StatusCode, code, message)
		}
	}
	answer := f.do("GET", "/api/v1/events", nil, "Last-Event-ID", "x")
	if _, message := answer.refusal(t); answer.StatusCode != 400 || !strings.HasPrefix(message, "Last-Event-ID: ") {
		t.Errorf("a wrong header: %d %s", answer.StatusCode, message)
	}
	foreign := f.do("GET", "/api/v1/events", nil, "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site", "Accept", "text/event-stream")
	if foreign.StatusCode != 403 {
		t.Errorf("a foreign page opened a stream: %d", foreign.StatusCode)
	}
}

func TestEventsEndWithTheServer(t *testing.T) {
	f := start(t, nil, nil)
	l := f.listen(t.Context(), "?last_event_id=0")
	f.tellOf("", 1, 2)
	l.take(1)
	f.stop()
	if event, ok := l.next(); ok || l.lines.Err() != nil {
		t.Errorf("instead of its end: %+v, %v", event, l.lines.Err())
	}
}

// TestEventsWaitForASlowReader has more happen than fits between server and reader while it does
// not read.
func TestEventsWaitForASlowReader(t *testing.T) {
	const events = 20_000
	f := start(t, nil, nil)
	l := f.listen(t.Context(), "")
	for n := 0; n < events; n += 1000 {
		f.tellOf("a tenant with a name that fills the stream: "+strings.Repeat("x", 500), n, n+1000)
	}
	for n, event := range l.take(events) {
		if event.Data["n"] != float64(n) {
			t.Fatalf("event %d is %+v", n, event)
		}
	}
}

// TestEventsOfThePublicClient also cuts it off from its server once.
func TestEventsOfThePublicClient(t *testing.T) {
	f := start(t, withKeys, nil)
	c := f.public()
	sandbox, err := c.Spawn(t.Context(), client.SpawnRequest{})
	must(t, err)
	var got []client.Event
	for event, err := range c.Events(t.Context(), client.EventsRequest{After: "0"}) {
		must(t, err)
		if got = append(got, event); len(got) == 2 {
			f.server.CloseClientConnections()
			f.tellOf("", 1, 2)
		}
		if len(got) == 3 {
			break
		}
	}
	if got[0].Type != "sandbox.created" || got[1].SandboxID != sandbox.ID || got[2].Data["n"] != 1.0 || got[2].Timestamp.IsZero() {
		t.Errorf("got %+v", got)
	}
	kept := 0
	for _, err := range c.Events(t.Context(), client.EventsRequest{After: got[0].ID, NoFollow: true}) {
		must(t, err)
		kept++
	}
	if kept != 2 {
		t.Errorf("%d are kept after the first", kept)
	}
}

// TestEventsWithoutABody answers a question about the stream alone.
func TestEventsWithoutABody(t *testing.T) {
	f := start(t, nil, nil)
	request, err := http.NewRequestWithContext(t.Context(), "HEAD", f.server.URL+"/api/v1/events", nil)
	must(t, err)
	answer, err := f.client.Do(request)
	must(t, err)
	defer answer.Body.Close()
	if body, err := io.ReadAll(answer.Body); answer.StatusCode != 200 || len(body) != 0 || err != nil || answer.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("HEAD: %d, %q, %v", answer.StatusCode, body, err)
	}
}
