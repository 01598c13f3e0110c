package agent

import (
	"context"
	"errors"
	"sync"
	"time"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/guest"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// keepalive is how long a stream may be silent. Its first event comes at once, whatever it is: the
// caller learns that the process is there.
const keepalive = 15 * time.Second

// reader sends a process's output and exit to one caller. It never copies more than one frame at a
// time: a caller who does not read holds one frame of memory.
type reader struct {
	p        *process
	send     func(*guestv1.ProcessEvent) error
	frame    int // bytes of a data event at most
	cursors  [2]*cursor
	noFollow bool
	begun    bool // something was sent
}

// follow sends events from the offsets on until the exit was sent, or, without following, until
// what is there now was.
func (r *reader) follow(ctx context.Context, from [2]uint64) error {
	for i, s := range r.p.streams() {
		c, ok := s.ring.attach(from[i])
		if !ok {
			return connect.NewError(connect.CodeInvalidArgument, errors.New("the offset is beyond what was written"))
		}
		defer c.detach()
		r.cursors[i] = c
	}
	return r.run(ctx)
}

func (r *reader) run(ctx context.Context) error {
	var silence *time.Timer
	for {
		news := r.p.notifier.listen()
		exit := r.p.report()
		limits := r.p.written()
		if exit != nil { // who gets this exit gets the bytes that it counts
			limits = [2]uint64{exit.StdoutBytes, exit.StderrBytes}
		}
		if err := r.drain(ctx, limits); err != nil {
			return err
		}
		switch {
		case exit != nil:
			sendsLast(ctx)
			return r.send(&guestv1.ProcessEvent{Event: &guestv1.ProcessEvent_Exit{Exit: exit}})
		case r.noFollow:
			return nil
		}
		if !r.begun {
			if err := r.sayNothing(); err != nil {
				return err
			}
		}
		if silence == nil {
			silence = time.NewTimer(keepalive)
			defer silence.Stop()
		} else {
			silence.Reset(keepalive)
		}
		select {
		case <-news:
		case <-silence.C:
			if err := r.sayNothing(); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (r *reader) sayNothing() error {
	r.begun = true
	return r.send(&guestv1.ProcessEvent{Event: &guestv1.ProcessEvent_Keepalive{Keepalive: &guestv1.Keepalive{}}})
}

// drain sends what there is up to the limits, one frame of each stream in turn. It ends however
// fast more comes.
func (r *reader) drain(ctx context.Context, limits [2]uint64) error {
	frame, done := r.buffer()
	defer done()
	for {
		sent := false
		for i, c := range r.cursors {
			n, offset, gap := c.next(frame, limits[i])
			if n == 0 && gap == 0 {
				continue
			}
			sent, r.begun = true, true
			if err := r.send(outputEvent(guestv1.Stream(i+1), offset, gap, frame[:n])); err != nil {
				return err
			}
		}
		if !sent {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// largeFrames holds buffers for readers that take large frames.
var largeFrames = sync.Pool{New: func() any { return new([guest.LargeFrame]byte) }}

// buffer gives room for one frame.
func (r *reader) buffer() (frame []byte, done func()) {
	if r.frame > frameSize {
		large := largeFrames.Get().(*[guest.LargeFrame]byte)
		return large[:r.frame], func() { largeFrames.Put(large) }
	}
	small := frames.Get().(*[frameSize]byte)
	return small[:r.frame], func() { frames.Put(small) }
}

func outputEvent(stream guestv1.Stream, offset, gap uint64, data []byte) *guestv1.ProcessEvent {
	if gap > 0 {
		return &guestv1.ProcessEvent{
			Event: &guestv1.ProcessEvent_Gap{Gap: &guestv1.Gap{Stream: stream, Offset: offset, Bytes: gap}},
		}
	}
	return &guestv1.ProcessEvent{
		Event: &guestv1.ProcessEvent_Data{Data: &guestv1.Data{Stream: stream, Offset: offset, Data: data}},
	}
}
