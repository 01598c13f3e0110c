package agent

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

func (h *host) input(t *testing.T, id, data string, offset *uint64, end bool) (uint64, error) {
	t.Helper()
	response, err := h.processes.Input(t.Context(), connect.NewRequest(&guestv1.InputRequest{Id: id, Data: []byte(data), Offset: offset, Close: end}))
	if err != nil {
		return 0, err
	}
	return response.Msg.Received, nil
}

func TestInput(t *testing.T) {
	h := newHost(t)
	w := h.watch(t, &guestv1.StartRequest{Argv: []string{"cat"}, Stdin: true})
	for _, c := range []struct {
		data   string
		offset *uint64
		end    bool
		want   uint64
		code   connect.Code
	}{
		{data: "abc", want: 3},
		{data: "abc", offset: new(uint64(0)), want: 3},  // all of it came already
		{data: "bcde", offset: new(uint64(1)), want: 5}, // a part of it
		{data: "x", offset: new(uint64(9)), code: connect.CodeInvalidArgument},
		{data: "fg", offset: new(uint64(5)), end: true, want: 7},
		{data: "fg", offset: new(uint64(5)), end: true, want: 7}, // its answer was lost
		{data: "h", offset: new(uint64(7)), code: connect.CodeFailedPrecondition},
		{data: "h", code: connect.CodeFailedPrecondition},
	} {
		got, err := h.input(t, w.id(), c.data, c.offset, c.end)
		if c.code != 0 {
			wantCode(t, err, c.code)
		} else if err != nil || got != c.want {
			t.Errorf("%q: received %d, %v, want %d", c.data, got, err, c.want)
		}
	}
	if exit := w.untilExit(); string(w.stdout) != "abcdefg" || exit.Code != 0 {
		t.Errorf("got %q, %v", w.stdout, exit)
	}
	_, err := h.input(t, w.id(), "more", nil, false)
	wantCode(t, err, connect.CodeFailedPrecondition)
}

func TestInputNeverOpen(t *testing.T) {
	h := newHost(t)
	p := h.begin(t, &guestv1.StartRequest{Argv: []string{"sleep", "1000"}})
	_, err := h.input(t, p.Id, "x", nil, false)
	wantCode(t, err, connect.CodeFailedPrecondition)
}

// TestInputBlocks fills the pipe, gives up, and goes on from the offset without loss.
func TestInputBlocks(t *testing.T) {
	h := newHost(t)
	if r := h.run(t, &guestv1.StartRequest{Argv: []string{"mkfifo", "fifo"}, Workdir: "/workspace"}); r.exit.Code != 0 {
		t.Fatal(r)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 16<<10) // four pipes full
	w := h.watch(t, &guestv1.StartRequest{Argv: shell("read go < fifo; cat"), Stdin: true, Workdir: "/workspace"})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := h.processes.Input(ctx, connect.NewRequest(&guestv1.InputRequest{Id: w.id(), Data: data, Offset: new(uint64(0))}))
	wantCode(t, err, connect.CodeDeadlineExceeded)
	h.sh(t, "echo > fifo")
	got, err := h.input(t, w.id(), string(data), new(uint64(0)), true)
	if err != nil || got != uint64(len(data)) {
		t.Fatalf("received %d, %v", got, err)
	}
	if exit := w.untilExit(); !bytes.Equal(w.stdout, data) || exit.Code != 0 {
		t.Errorf("got %d bytes, %v", len(w.stdout), exit)
	}
}

func TestInputToOneWhoDoesNotRead(t *testing.T) {
	h := newHost(t)
	w := h.watch(t, &guestv1.StartRequest{Argv: shell("exec <&-; echo closed; sleep 1000"), Stdin: true})
	w.untilOutput("closed")
	_, err := h.input(t, w.id(), strings.Repeat("x", 1<<17), nil, false)
	wantCode(t, err, connect.CodeFailedPrecondition)
}
