package control

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

const (
	// reconnectWithin is how long a reader waits for a guest whose connection broke.
	reconnectWithin = 15 * time.Second
	// startWithin is how long, when it broke before the command was seen to start.
	startWithin = 3 * time.Second
)

// follower is an Output that survives its connection: it remembers how far its reader is and
// opens a new stream there.
type follower struct {
	// open begins a stream that lives until ctx ends: with started false the process may not run
	// yet, otherwise it is read from the offsets on.
	open func(ctx context.Context, started bool, from AttachRequest) (Output, error)
	// feed gives the process its input, if any. It runs from the start of the process until ctx
	// ends.
	feed func(ctx context.Context)
	// ended is told once how the process ended; nil: its reader left before.
	ended func(*stacyvm.Exit)

	ctx    context.Context // the life of the streams and of feed
	cancel context.CancelFunc
	feeds  sync.WaitGroup

	mu       sync.Mutex // held while an event is waited for
	stream   Output
	started  bool // the process is known to exist: attach rather than start
	notified bool // ended was called
	closed   bool // feed does not begin any more
	exited   bool
	from     AttachRequest
}

// Next gives the next event and mends the connection when it breaks.
func (f *follower) Next(ctx context.Context) (stacyvm.OutputEvent, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var backoff retry.Backoff
	for {
		event, err := f.next(ctx)
		switch {
		case err == nil && !f.note(&event):
			continue // the reader has it already
		case err == nil:
			return event, nil
		case f.exited || f.from.NoFollow && errors.Is(err, io.EOF):
			return stacyvm.OutputEvent{}, io.EOF
		case errors.Is(err, io.EOF):
			err = io.ErrUnexpectedEOF // to the reader, io.EOF is the process's end
		}
		if ctx.Err() != nil || f.ctx.Err() != nil || !guest.Broken(err) || silent(err) && !f.started {
			return stacyvm.OutputEvent{}, err
		}
		if backoff.Within = reconnectWithin; !f.started {
			backoff.Within = startWithin
		}
		if backoff.Over() {
			return stacyvm.OutputEvent{}, f.unreachable(err)
		}
		f.drop()
		if err := backoff.Wait(ctx); err != nil {
			return stacyvm.OutputEvent{}, err
		}
	}
}

// unreachable is the error of a process that was given up.
func (f *follower) unreachable(err error) error {
	own, coded := errors.AsType[*stacyvm.Error](err)
	switch {
	case f.started:
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err,
			"the sandbox does not answer; its output can be attached to later")
	case coded:
		return own
	}
	return stacyvm.Wrap(stacyvm.CodeUnavailable, err,
		"the connection to the sandbox broke before the command began to answer")
}

// next reads from the stream that is open, or opens one.
func (f *follower) next(ctx context.Context) (stacyvm.OutputEvent, error) {
	if f.stream == nil {
		stream, err := f.open(f.ctx, f.started, f.from)
		if err != nil {
			return stacyvm.OutputEvent{}, err
		}
		f.stream = stream
	}
	return f.stream.Next(ctx)
}

// note keeps the reader's place. It cuts off, or refuses, what the reader has seen before the
// connection broke.
func (f *follower) note(event *stacyvm.OutputEvent) (fresh bool) {
	switch {
	case event.Started != nil:
		again := f.started
		f.started = true
		if !again && f.feed != nil && !f.closed {
			f.feeds.Go(func() { f.feed(f.ctx) })
		}
		return !again
	case event.Exit != nil:
		f.exited = true
		f.notify(event.Exit)
	case event.Gap > 0:
		at := f.offset(event.Stream)
		end := event.Offset + event.Gap
		if end <= *at {
			return false
		}
		*at = end
	case len(event.Data) > 0:
		at := f.offset(event.Stream)
		if seen := *at - event.Offset; event.Offset < *at {
			if seen >= uint64(len(event.Data)) {
				return false
			}
			event.Data, event.Offset = event.Data[seen:], *at
		}
		*at = event.Offset + uint64(len(event.Data))
	}
	return true
}

func (f *follower) offset(stream stacyvm.Stream) *uint64 {
	if stream == stacyvm.Stderr {
		return &f.from.StderrOffset
	}
	return &f.from.StdoutOffset
}

func (f *follower) drop() {
	if f.stream != nil {
		_ = f.stream.Close() // it is broken already
		f.stream = nil
	}
}

func (f *follower) notify(exit *stacyvm.Exit) {
	if !f.notified && f.ended != nil {
		f.ended(exit)
	}
	f.notified = true
}

// Close lets go of the stream; the process goes on. A Next in another goroutine returns. A stream
// that has given the exit is not cut: that would break its connection to the guest.
func (f *follower) Close() error {
	if !f.mu.TryLock() {
		f.cancel() // for that Next
		f.mu.Lock()
	}
	if !f.exited {
		f.cancel()
	}
	f.closed = true
	f.drop()
	f.notify(nil)
	f.mu.Unlock()
	f.cancel()
	f.feeds.Wait()
	return nil
}

// silent reports whether the worker gave no sign of life: who has begun nothing yet tries no
// second time.
func silent(err error) bool { return errors.Is(err, worker.ErrSilent) }
