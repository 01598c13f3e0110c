package agent

import (
	"context"
	"errors"
	"math"
	"time"

	"connectrpc.com/connect"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// keepalive is how long a stream may be silent.
const keepalive = 15 * time.Second

// reader sends a process's output and exit to one caller. It never copies more than one frame at a time: a caller who does
// not read holds one frame of memory.
type reader struct {
	p        *process
	send     func(*guestv1.ProcessEvent) error
	cursors  [2]*cursor
	limits   [2]uint64
	noFollow bool
}

// follow sends events from the offsets on until the exit was sent, or, without following, until what is there now was.
func (p *process) follow(ctx context.Context, from [2]uint64, noFollow bool, send func(*guestv1.ProcessEvent) error) error {
	r := &reader{p: p, send: send, limits: [2]uint64{math.MaxUint64, math.MaxUint64}, noFollow: noFollow}
	for i, s := range p.streams() {
		c, ok := s.ring.attach(from[i])
		if !ok {
			return connect.NewError(connect.CodeInvalidArgument, errors.New("the offset is beyond what was written"))
		}
		defer c.detach()
		r.cursors[i] = c
		if noFollow {
			r.limits[i] = s.ring.state().Bytes
		}
	}
	return r.run(ctx)
}

func (r *reader) run(ctx context.Context) error {
	var silence *time.Timer
	for {
		news := r.p.bell.listen()
		exit := r.p.report()
		if exit != nil { // all readers of this exit get the bytes that it counts
			r.limits = [2]uint64{exit.StdoutBytes, exit.StderrBytes}
		}
		if err := r.drain(ctx); err != nil {
			return err
		}
		switch {
		case exit != nil:
			return r.send(&guestv1.ProcessEvent{Event: &guestv1.ProcessEvent_Exit{Exit: exit}})
		case r.noFollow:
			return nil
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
			if err := r.send(&guestv1.ProcessEvent{Event: &guestv1.ProcessEvent_Keepalive{Keepalive: &guestv1.Keepalive{}}}); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// drain sends what there is, one frame of each stream in turn.
func (r *reader) drain(ctx context.Context) error {
	frame := frames.Get().(*[frameSize]byte)
	defer frames.Put(frame)
	for {
		sent := false
		for i, c := range r.cursors {
			n, offset, gap := c.next(frame[:], r.limits[i])
			if n == 0 && gap == 0 {
				continue
			}
			sent = true
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

func outputEvent(stream guestv1.Stream, offset, gap uint64, data []byte) *guestv1.ProcessEvent {
	if gap > 0 {
		return &guestv1.ProcessEvent{Event: &guestv1.ProcessEvent_Gap{Gap: &guestv1.Gap{Stream: stream, Offset: offset, Bytes: gap}}}
	}
	return &guestv1.ProcessEvent{Event: &guestv1.ProcessEvent_Data{Data: &guestv1.Data{Stream: stream, Offset: offset, Data: data}}}
}
