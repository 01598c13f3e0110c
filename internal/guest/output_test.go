package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

func TestOutputGivesEverythingInOrder(t *testing.T) {
	c := clientOf(t, &liar{events: says(started("p"), data(out, 0, "one"), keepalive(), data(errs, 0, "err"), gap(out, 3, 7), data(out, 10, "two"),
		exited(&guestv1.Exit{Code: 3}), data(out, 13, "not heard"))}, ScopeExec)
	o, err := c.Run(t.Context(), stacyvm.Command{ProcessID: "mine"})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	var seen []string
	for {
		event, err := o.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case event.Started != nil:
			seen = append(seen, "started "+event.Started.ID)
		case event.Exit != nil:
			seen = append(seen, "exit")
		case event.Gap > 0:
			seen = append(seen, "gap")
		case len(event.Data) > 0:
			seen = append(seen, string(event.Stream)+" "+string(event.Data))
		default:
			seen = append(seen, "-")
		}
	}
	if got := strings.Join(seen, ", "); got != "started mine, stdout one, -, stderr err, gap, stdout two, exit" {
		t.Error(got)
	}
	if _, err := o.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %v", err)
	}
}

func TestAttachStartsAtItsOffsets(t *testing.T) {
	c := clientOf(t, &liar{events: says(keepalive(), data(out, 100, "x"), data(errs, 7, "y"))}, ScopeExec)
	for _, follow := range []bool{true, false} {
		o, err := c.Attach(t.Context(), "p", 100, 7, follow)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			if _, err := o.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		_, err = o.Next(t.Context())
		if follow {
			wantCode(t, "an end without the exit", err, stacyvm.CodeUnavailable)
			if !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
				t.Errorf("an end without the exit: %v", err)
			}
		} else if !errors.Is(err, io.EOF) {
			t.Errorf("an end that was asked for: %v", err)
		}
		_ = o.Close()
	}
}

func TestAttachToNothingEndsAtOnce(t *testing.T) {
	c := clientOf(t, &liar{events: says()}, ScopeExec)
	o, err := c.Attach(t.Context(), "p", 0, 0, false)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if _, err := o.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("the end of nothing: %v", err)
	}
	_, err = c.Attach(t.Context(), "p", 0, 0, true)
	wantCode(t, "following nothing", err, stacyvm.CodeUnavailable)
}

// TestNextKeepsTheEventThatComesTooLate lets many calls of Next end before their event comes.
func TestNextKeepsTheEventThatComesTooLate(t *testing.T) {
	const events = 300
	c := clientOf(t, &liar{events: func(_ context.Context, stream *connect.ServerStream[guestv1.ProcessEvent]) error {
		_ = stream.Send(started("p"))
		for i := range events {
			_ = stream.Send(data(out, uint64(i), "x"))
		}
		return stream.Send(exited(&guestv1.Exit{}))
	}}, ScopeExec)
	o, err := c.Run(t.Context(), stacyvm.Command{})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	bytes, late := uint64(0), 0
	for round := 0; ; round++ {
		ctx, cancel := context.WithCancel(t.Context())
		switch round % 3 {
		case 0:
			cancel()
		case 1:
			go cancel() // races with the event
		}
		event, err := o.Next(ctx)
		cancel()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			late++
			wantCode(t, "a caller that left", err, stacyvm.CodeUnavailable)
			continue
		}
		if len(event.Data) > 0 {
			if event.Offset != bytes {
				t.Fatalf("offset %d after %d bytes", event.Offset, bytes)
			}
			bytes += uint64(len(event.Data))
		}
	}
	if bytes != events || late == 0 {
		t.Errorf("%d of %d bytes, %d calls ended early", bytes, events, late)
	}
}

// silent begins a process and then says nothing until its reader leaves; it tells then.
func silent(left chan<- struct{}) func(context.Context, *connect.ServerStream[guestv1.ProcessEvent]) error {
	return func(ctx context.Context, stream *connect.ServerStream[guestv1.ProcessEvent]) error {
		_ = stream.Send(started("p"))
		<-ctx.Done()
		left <- struct{}{}
		return ctx.Err()
	}
}

func TestContextsEndWithTheirOwnCause(t *testing.T) {
	left := make(chan struct{}, 10)
	c := clientOf(t, &liar{events: silent(left)}, ScopeExec)
	o, err := c.Run(t.Context(), stacyvm.Command{})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = o.Next(t.Context()) // started
	timeout, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = o.Next(timeout)
	wantCode(t, "a deadline", err, stacyvm.CodeTimeout)
	limited, cancel := context.WithTimeoutCause(t.Context(), time.Millisecond, stacyvm.Errorf(stacyvm.CodeLimit, "enough"))
	defer cancel()
	_, err = o.Next(limited)
	wantCode(t, "a cause", err, stacyvm.CodeLimit)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = o.Next(canceled)
	wantCode(t, "a caller that left", err, stacyvm.CodeUnavailable)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("the cause is lost: %v", err)
	}
	waiting := make(chan error)
	go func() { _, err := o.Next(t.Context()); waiting <- err }()
	_ = o.Close()
	wantCode(t, "a Next at Close", <-waiting, stacyvm.CodeUnavailable)
	<-left
	_ = o.Close()

	life, end := context.WithCancelCause(t.Context())
	if o, err = c.Run(life, stacyvm.Command{}); err != nil {
		t.Fatal(err)
	}
	_, _ = o.Next(t.Context())
	end(stacyvm.Errorf(stacyvm.CodeLeaseLost, "no longer ours"))
	_, err = o.Next(t.Context())
	wantCode(t, "the stream's own context", err, stacyvm.CodeLeaseLost)
	<-left
	_ = o.Close()
}

func TestABodyThatFailsIsNotTheGuestsFault(t *testing.T) {
	got := make(chan error, 1)
	c := clientOf(t, &liar{write: func(stream *connect.ClientStream[guestv1.WriteRequest]) error {
		for stream.Receive() {
		}
		got <- stream.Err()
		return stream.Err()
	}}, ScopeFiles)
	for _, tt := range []struct {
		failure error
		want    stacyvm.Code
	}{{errors.New("unplugged"), stacyvm.CodeInvalid}, {stacyvm.Errorf(stacyvm.CodeTooLarge, "over the limit"), stacyvm.CodeTooLarge}, {io.ErrUnexpectedEOF, stacyvm.CodeInvalid}, {fmt.Errorf("upstream: %w", io.EOF), stacyvm.CodeInvalid}} {
		// As a read of a request's body that fails ends the request's context.
		ctx, cancel := context.WithCancel(t.Context())
		_, err := c.WriteFile(ctx, "/f", 0, "", io.MultiReader(&zeros{100 << 10}, failing{tt.failure, cancel}))
		wantCode(t, "write", err, tt.want)
		if err := <-got; err == nil {
			t.Error("the guest took a part for the whole")
		}
	}
}

type failing struct {
	err    error
	before func()
}

func (f failing) Read([]byte) (int, error) {
	f.before()
	return 0, f.err
}
