package guest

import (
	"context"
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// endGrace is how long Close waits for a stream to end by itself after the exit; cutting it costs
// more messages.
const endGrace = 100 * time.Millisecond

// Output is a process's output as it comes over one connection. Close it; the process goes on. One
// goroutine may call Next while another calls Close.
type Output struct {
	cancel  context.CancelFunc
	release func() // what the stream may hold in memory
	events  chan stacyvm.OutputEvent
	done    chan struct{} // closed when the stream is over; err is set then
	err     error
	first   *stacyvm.OutputEvent // came while the stream was opened
	exited  atomic.Bool

	closing sync.Once
}

// receiver is a stream of events.
type receiver = connect.ServerStreamForClient[guestv1.ProcessEvent]

// openOutput waits for the first event, so that a refusal is an error here. follow: the stream
// must end with an exit. release is called when it is over.
func openOutput(
	ctx context.Context,
	at place,
	follow bool,
	release func(),
	call func(context.Context) (*receiver, error),
) (*Output, error) {
	life, cancel := context.WithCancel(ctx)
	life, raw := withRaw(life)
	stream, err := call(life)
	if err != nil {
		defer release()
		defer cancel()
		return nil, failure(life, err)
	}
	o := &Output{cancel: cancel, release: release, events: make(chan stacyvm.OutputEvent), done: make(chan struct{})}
	go o.pump(life, &events{stream: stream, raw: raw, at: at}, follow)
	event, err := o.Next(ctx)
	switch {
	case err == nil:
		o.first = &event
	case !errors.Is(err, io.EOF):
		_ = o.Close()
		return nil, err
	}
	return o, nil
}

// pump reads one event ahead of the reader, so that a reader who leaves Next early loses nothing.
func (o *Output) pump(ctx context.Context, in *events, follow bool) {
	defer close(o.done)
	defer in.stream.Close()
	for {
		event, more, err := in.next()
		if err != nil {
			o.err = failure(ctx, err)
			o.cancel() // the rest is not worth reading
			return
		}
		if !more {
			break
		}
		select {
		case o.events <- event:
		case <-ctx.Done():
			o.err = ended(ctx)
			return
		}
		if event.Exit != nil {
			in.stream.Receive() // the end of the stream; whatever else comes is not heard
			o.err = io.EOF
			return
		}
	}
	switch err := in.stream.Err(); {
	case err != nil:
		o.err = failure(ctx, err)
	case follow:
		o.err = cut()
	default:
		o.err = io.EOF
	}
}

// Started is the process as the first event described it; nil when another event came first, or
// Next has been called.
func (o *Output) Started() *stacyvm.Process {
	if o.first == nil {
		return nil
	}
	return o.first.Started
}

// Next gives the next event; its Data is good until the next call. io.EOF comes after the exit
// event, or at the end of what is there when the caller did not want to follow. When ctx ends
// first, the event that comes next is not lost. CodeUnavailable: the connection broke, or the
// guest broke the protocol; attach again.
func (o *Output) Next(ctx context.Context) (stacyvm.OutputEvent, error) {
	if o.first != nil {
		event := *o.first
		o.first = nil
		return event, nil
	}
	if o.exited.Load() {
		return stacyvm.OutputEvent{}, io.EOF
	}
	select {
	case event := <-o.events:
		o.exited.Store(event.Exit != nil)
		return event, nil
	case <-o.done:
		return stacyvm.OutputEvent{}, o.err
	case <-ctx.Done():
		return stacyvm.OutputEvent{}, ended(ctx)
	}
}

// Close lets go of the stream; the process goes on. A Next in another goroutine returns.
func (o *Output) Close() error {
	o.closing.Do(func() {
		grace := time.AfterFunc(endGrace, o.cancel)
		defer grace.Stop()
		if !o.exited.Load() {
			o.cancel()
		}
		<-o.done
		o.cancel()
		o.release()
	})
	return nil
}
