package api_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/api"
	"github.com/stacyvm/stacyvm/internal/api/middleware"
	"github.com/stacyvm/stacyvm/internal/auth"
)

// streams opens streams of events as one user until one is refused, and gives that answer and how
// many were opened.
func (f *fixture) streams(user string, most int) (refused *http.Response, opened int) {
	f.t.Helper()
	for range most {
		r := f.event(middleware.UserHeader, user)
		if r.StatusCode != http.StatusOK {
			return r, opened
		}
		opened++
	}
	return nil, opened
}

// event opens a stream of events with these headers.
func (f *fixture) event(headers ...string) *http.Response {
	f.t.Helper()
	request, err := http.NewRequestWithContext(f.t.Context(), "GET", f.server.URL+"/api/v1/events", nil)
	must(f.t, err)
	for i := 0; i+1 < len(headers); i += 2 {
		request.Header.Set(headers[i], headers[i+1])
	}
	answer, err := f.client.Do(request)
	must(f.t, err)
	f.t.Cleanup(func() { _ = answer.Body.Close() })
	return answer
}

// TestStreamsOfOneCaller: whoever has as many streams open as a caller may is told so, and can do
// everything else; others can open streams, until all of them together have as many as the server
// takes.
func TestStreamsOfOneCaller(t *testing.T) {
	f := start(t, func(c *api.Config) { c.Streams = api.StreamLimits{All: 16, Caller: 5} }, nil)
	id := f.spawn().ID
	path := "/api/v1/sandboxes/" + id
	refused, opened := f.streams("one", 6)
	if opened != 5 || refused.StatusCode != http.StatusTooManyRequests || refused.Header.Get("Retry-After") == "" {
		t.Fatalf("%d streams, then %+v", opened, refused)
	}
	as := []string{middleware.UserHeader, "one"}
	for method, of := range map[string]string{"GET": "/files?path=/etc/hosts", "PUT": "/files/archive?path=d", "POST": "/exec"} {
		r := f.do(method, path+of, map[string]any{"command": "true"}, as...)
		if code, _ := r.refusal(t); r.StatusCode != http.StatusTooManyRequests || code != "RESOURCE_LIMIT" {
			t.Errorf("%s %s: %d %s", method, of, r.StatusCode, r.text)
		}
	}
	if r := f.do("GET", path+"/processes", nil, as...); r.StatusCode != http.StatusOK {
		t.Errorf("a call that is no stream: %d %s", r.StatusCode, r.text)
	}
	for query, want := range map[string]int{"": http.StatusNotFound, "?wait=false": http.StatusNotFound, "?wait=true": http.StatusTooManyRequests, "?wait=1": http.StatusTooManyRequests} {
		if r := f.do("GET", path+"/processes/none"+query, nil, as...); r.StatusCode != want {
			t.Errorf("a process%s: %d %s", query, r.StatusCode, r.text)
		}
	}
	if refused, opened = f.streams("two", 5); opened != 5 {
		t.Fatalf("another caller: %d streams, then %+v", opened, refused)
	}
	if refused, opened = f.streams("three", 5); opened != 2 || refused.StatusCode != http.StatusTooManyRequests {
		t.Errorf("one address has 10 and %d of 16 streams, then %+v", opened, refused)
	}
}

// TestStreamsOfAll: over the bound for all callers together an answer says that one may try again.
func TestStreamsOfAll(t *testing.T) {
	f := start(t, func(c *api.Config) {
		c.Streams = api.StreamLimits{All: 4, Caller: 4}
		c.Authenticators = append(c.Authenticators, auth.NewKeys("client-key", "admin-key", false))
	}, nil)
	client, admin := []string{middleware.KeyHeader, "client-key"}, []string{middleware.AdminKeyHeader, "admin-key"}
	var last *http.Response
	for i := range 3 {
		if last = f.event(client...); last.StatusCode != http.StatusOK {
			t.Fatalf("stream %d: %+v", i, last)
		}
	}
	if r := f.event(client...); r.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a fourth of 4 streams with one key: %+v", r)
	}
	if r := f.event(admin...); r.StatusCode != http.StatusOK {
		t.Errorf("another key: %+v", r)
	}
	if r := f.event(admin...); r.StatusCode != http.StatusServiceUnavailable || r.Header.Get("Retry-After") == "" {
		t.Errorf("a fifth of 4 streams: %+v", r)
	}
	_ = last.Body.Close()
	for deadline := time.Now().Add(10 * time.Second); f.event(client...).StatusCode != http.StatusOK; {
		if time.Now().After(deadline) {
			t.Fatal("the slot of a reader that left is not free")
		}
	}
}
