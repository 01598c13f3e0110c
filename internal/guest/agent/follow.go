package agent

import (
	"context"
	"errors"
	"time"

	"connectrpc.com/connect"

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
	frame    int     // bytes of a data event at most
	answer   *answer // takes data events without another copy; nil: none does
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
	frame := frameFor(r.frame)
	defer putFrame(frame)
	room := frame.data()[:r.frame]
	for {
		sent := false
		for i, c := range r.cursors {
			n, offset, gap := c.next(room, limits[i])
			if n == 0 && gap == 0 {
				continue
			}
			if err := r.output(guestv1.Stream(i+1), offset, gap, frame, n); err != nil {
				return err
			}
			sent = true
		}
		if !sent {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
}

// output sends the first n bytes of a frame, or the gap.
func (r *reader) output(stream guestv1.Stream, offset, gap uint64, f *frame, n int) error {
	begun := r.begun
	r.begun = true
	if begun && gap == 0 && r.answer != nil {
		return r.answer.send(f, beforeOutput(stream, offset, n), n)
	}
	return r.send(outputEvent(stream, offset, gap, f.data()[:n]))
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
