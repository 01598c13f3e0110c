package client_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
)

// outputServer serves one ended process's output and cuts connections as told.
type outputServer struct {
	stdout, stderr []byte
	// cut decides, per connection, after how many bytes of the answer it breaks; negative: never.
	cut         func(connection int) int
	connections atomic.Int32
	refuse      func(connection int) int // status to answer instead; 0: serve
}

func (s *outputServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	connection := int(s.connections.Add(1))
	if s.refuse != nil {
		if status := s.refuse(connection); status != 0 {
			w.WriteHeader(status)
			_, _ = w.Write([]byte(`{"code":"UNAVAILABLE","message":"starting"}`))
			return
		}
	}
	var body bytes.Buffer
	lines := json.NewEncoder(&body)
	for stream, content := range map[string][]byte{"stdout": s.stdout, "stderr": s.stderr} {
		offset, _ := strconv.Atoi(r.URL.Query().Get(stream + "_offset"))
		for offset < len(content) {
			// Pieces begin a little early, as a server that keeps whole chunks might.
			start := max(0, offset-3)
			end := min(len(content), offset+1000)
			_ = lines.Encode(map[string]any{"stream": stream, "offset": start, "data_base64": content[start:end]})
			offset = end
		}
	}
	_ = lines.Encode(map[string]any{"type": "keepalive"})
	_ = lines.Encode(map[string]any{"stream": "stdout", "data": "", "exit_code": 7, "duration": "1s"})
	answer := body.Bytes()
	if limit := s.cut(connection); limit >= 0 && limit < len(answer) {
		_, _ = w.Write(answer[:limit])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	_, _ = w.Write(answer)
}

func newClient(t *testing.T, handler http.Handler) *client.Client {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	c, err := client.New(server.URL, client.Options{HTTPClient: &http.Client{Transport: transport}, Patience: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func collect(t *testing.T, c *client.Client, from client.OutputRequest) (stdout, stderr []byte, exit *client.Exit) {
	t.Helper()
	next := map[client.Stream]uint64{client.Stdout: from.StdoutOffset, client.Stderr: from.StderrOffset}
	for event, err := range c.Output(context.Background(), "sb-1", "p1", from) {
		if err != nil {
			t.Fatal(err)
		}
		if event.Exit != nil {
			exit = event.Exit
			continue
		}
		if event.Offset != next[event.Stream] {
			t.Fatalf("%s continues at %d, want %d", event.Stream, event.Offset, next[event.Stream])
		}
		next[event.Stream] += uint64(len(event.Data)) + event.Gap
		if event.Stream == client.Stdout {
			stdout = append(stdout, event.Data...)
		} else {
			stderr = append(stderr, event.Data...)
		}
	}
	return stdout, stderr, exit
}

func TestOutputIsByteExactAcrossCuts(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	server := &outputServer{stdout: make([]byte, 50_000), stderr: make([]byte, 20_000)}
	for i := range server.stdout {
		server.stdout[i] = byte(random.Uint32())
	}
	for i := range server.stderr {
		server.stderr[i] = byte(random.Uint32())
	}
	server.cut = func(connection int) int {
		if connection > 40 {
			return -1
		}
		return random.IntN(6000)
	}
	stdout, stderr, exit := collect(t, newClient(t, server), client.OutputRequest{})
	if !bytes.Equal(stdout, server.stdout) || !bytes.Equal(stderr, server.stderr) {
		t.Errorf("got %d and %d bytes, or other bytes than the %d and %d sent", len(stdout), len(stderr), len(server.stdout), len(server.stderr))
	}
	if exit == nil || exit.Code != 7 {
		t.Errorf("exit = %+v, want code 7", exit)
	}
}

func TestOutputFromOffset(t *testing.T) {
	server := &outputServer{stdout: []byte("0123456789"), stderr: []byte("abcdef"), cut: func(int) int { return -1 }}
	stdout, stderr, _ := collect(t, newClient(t, server), client.OutputRequest{StdoutOffset: 4, StderrOffset: 6})
	if string(stdout) != "456789" || len(stderr) != 0 {
		t.Errorf("got %q and %q", stdout, stderr)
	}
}

func TestOutputOutlastsARestart(t *testing.T) {
	server := &outputServer{stdout: []byte("hello"), cut: func(int) int { return -1 }}
	server.refuse = func(connection int) int {
		if connection <= 3 {
			return http.StatusServiceUnavailable
		}
		return 0
	}
	stdout, _, exit := collect(t, newClient(t, server), client.OutputRequest{})
	if string(stdout) != "hello" || exit == nil {
		t.Errorf("got %q, exit %v", stdout, exit)
	}
}

func TestOutputEndsWithARefusal(t *testing.T) {
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNotFound)
		_, _ = w.Write([]byte(`{"code":"NOT_FOUND","message":"no such process"}`))
	}))
	var got error
	for _, err := range c.Output(context.Background(), "sb-1", "p1", client.OutputRequest{}) {
		got = err
	}
	if client.CodeOf(got) != client.CodeNotFound {
		t.Errorf("error = %v, want %s", got, client.CodeNotFound)
	}
}

func TestOutputReportsMissingBytes(t *testing.T) {
	lines := strings.Join([]string{
		`{"stream":"stdout","offset":0,"data_base64":"YWJj"}`,
		`{"stream":"stdout","offset":3,"gap":7}`,
		`{"stream":"stdout","offset":12,"data_base64":"eHl6"}`, // 10 and 11 are missing without a word
		`{"stream":"later-addition","offset":0,"data_base64":"eHl6"}`,
		`{"stream":"stdout","data":"","exit_code":0}`,
	}, "\n")
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(lines)) }))
	var seen []string
	for event, err := range c.Output(context.Background(), "sb-1", "p1", client.OutputRequest{}) {
		if err != nil {
			t.Fatal(err)
		}
		seen = append(seen, fmt.Sprintf("%d:%s+%d", event.Offset, event.Data, event.Gap))
	}
	want := "0:abc+0 3:+7 10:+2 12:xyz+0 0:+0"
	if got := strings.Join(seen, " "); got != want {
		t.Errorf("events %q, want %q", got, want)
	}
}

func TestOutputStopsWithTheReaderAndTheContext(t *testing.T) {
	c := newClient(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write([]byte(`{"stream":"stdout","offset":0,"data_base64":"YWJj"}` + "\n"))
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	}))
	for range c.Output(context.Background(), "sb-1", "p1", client.OutputRequest{}) {
		break
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var last error
	for _, err := range c.Output(ctx, "sb-1", "p1", client.OutputRequest{}) {
		cancel()
		last = err
	}
	if !errors.Is(last, context.Canceled) {
		t.Errorf("last error = %v, want %v", last, context.Canceled)
	}
}
