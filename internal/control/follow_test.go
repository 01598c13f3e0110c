package control

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stacyvm/stacyvm/internal/retry"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// flaky is a process whose connections break: each stream gives a few events from the asked
// offsets and then fails.
type flaky struct {
	stdout, stderr []byte
	exit           stacyvm.Exit
	events         int   // per connection; 0: no limit
	failure        error // what a connection ends with
	repeat         uint64
	refuse         int // so many opens fail first
	opens          int
	closed         int
	cut            int // of those that were closed: their context had ended
}

func (p *flaky) open(ctx context.Context, started bool, from AttachRequest) (Output, error) {
	p.opens++
	if p.opens <= p.refuse {
		return nil, p.failure
	}
	back := min(p.repeat, from.StdoutOffset) // a guest may give again what was read
	from.StdoutOffset -= back
	return &flakyStream{p: p, ctx: ctx, left: p.events, limited: p.events > 0, from: from, hello: !started}, nil
}

type flakyStream struct {
	p       *flaky
	ctx     context.Context
	left    int
	limited bool
	from    AttachRequest
	hello   bool
	done    bool
}

func (s *flakyStream) Close() error {
	s.p.closed++
	if s.ctx.Err() != nil {
		s.p.cut++
	}
	return nil
}

func (s *flakyStream) Next(ctx context.Context) (stacyvm.OutputEvent, error) {
	if s.limited && s.left == 0 {
		return stacyvm.OutputEvent{}, s.p.failure
	}
	s.left--
	switch {
	case s.done:
		return stacyvm.OutputEvent{}, io.EOF
	case s.hello:
		s.hello = false
		return stacyvm.OutputEvent{Started: &stacyvm.Process{ID: "p"}}, nil
	case s.from.StdoutOffset < uint64(len(s.p.stdout)):
		return part(stacyvm.Stdout, s.p.stdout, &s.from.StdoutOffset), nil
	case s.from.StderrOffset < uint64(len(s.p.stderr)):
		return part(stacyvm.Stderr, s.p.stderr, &s.from.StderrOffset), nil
	}
	s.done = true
	return stacyvm.OutputEvent{Exit: &s.p.exit}, nil
}

func part(stream stacyvm.Stream, all []byte, at *uint64) stacyvm.OutputEvent {
	end := min(*at+1+rand.Uint64N(700), uint64(len(all)))
	event := stacyvm.OutputEvent{Stream: stream, Offset: *at, Data: all[*at:end]}
	*at = end
	return event
}

// TestCloseAfterTheExit: the stream of a process that has ended ends by itself, and its connection
// can be used again. One that goes on is cut.
func TestCloseAfterTheExit(t *testing.T) {
	for _, test := range []struct{ events, cut int }{{1, 1}, {2, 0}} {
		p := &flaky{}
		f := following(p)
		for range test.events {
			if _, err := f.Next(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil || p.closed != 1 || p.cut != test.cut {
			t.Errorf("after %d events: closed %d, cut %d, %v", test.events, p.closed, p.cut, err)
		}
		if f.ctx.Err() == nil {
			t.Error("the follower lives on")
		}
	}
}

func following(p *flaky) *follower {
	ctx, cancel := context.WithCancel(context.Background())
	return &follower{ctx: ctx, cancel: cancel, open: p.open}
}

func TestFollowerGivesEveryByteOnce(t *testing.T) {
	breaks := map[string]error{
		"unavailable": stacyvm.Errorf(stacyvm.CodeUnavailable, "connection reset"),
		"stale epoch": stacyvm.Errorf(stacyvm.CodeStaleEpoch, "newer owner"),
		"early end":   io.EOF,
		"cut short":   io.ErrUnexpectedEOF,
	}
	for name, failure := range breaks {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := &flaky{stdout: random(50_000), stderr: random(9_000), exit: stacyvm.Exit{Code: 7}, events: 3, failure: failure, repeat: 100, refuse: 2}
				f := following(p)
				var result ExecResult
				var ends []*stacyvm.Exit
				f.ended = func(exit *stacyvm.Exit) { ends = append(ends, exit) }
				starts := 0
				for {
					event, err := f.Next(t.Context())
					if errors.Is(err, io.EOF) {
						break
					}
					if err != nil {
						t.Fatal(err)
					}
					if event.Started != nil {
						starts++
					}
					result.add(event)
				}
				if !bytes.Equal(bytes.Join(result.Stdout.Pieces(), nil), p.stdout) || !bytes.Equal(bytes.Join(result.Stderr.Pieces(), nil), p.stderr) || result.Truncated {
					t.Errorf("output differs: %d of %d and %d of %d bytes", result.Stdout.Len(), len(p.stdout), result.Stderr.Len(), len(p.stderr))
				}
				if result.Exit.Code != 7 || starts != 1 {
					t.Errorf("exit %d after %d started events", result.Exit.Code, starts)
				}
				_ = f.Close()
				if len(ends) != 1 || ends[0] == nil || ends[0].Code != 7 {
					t.Errorf("the end was told %d times", len(ends))
				}
				if p.closed != p.opens-p.refuse {
					t.Errorf("%d streams opened, %d closed", p.opens-p.refuse, p.closed)
				}
			})
		})
	}
}

func TestFollowerGivesUp(t *testing.T) {
	for started, within := range map[bool]time.Duration{true: reconnectWithin, false: startWithin} {
		synctest.Test(t, func(t *testing.T) {
			p := &flaky{failure: io.EOF, refuse: 1 << 30}
			f := following(p)
			f.started = started
			defer f.Close()
			began := time.Now()
			_, err := f.Next(t.Context())
			if stacyvm.CodeOf(err) != stacyvm.CodeUnavailable || errors.Is(err, io.EOF) {
				t.Errorf("gave up with %v", err)
			}
			if took := time.Since(began); took < within || took > within+2*retry.MaxPause {
				t.Errorf("started %v: gave up after %s", started, took)
			}
		})
	}
}

// TestFollowerOfASilentWorker: each try takes seconds. Who waits for a command that runs goes on
// trying; one that has not begun is given up at once.
func TestFollowerOfASilentWorker(t *testing.T) {
	silence := stacyvm.Wrap(stacyvm.CodeUnavailable, worker.ErrSilent, "it does not answer")
	synctest.Test(t, func(t *testing.T) {
		p := &flaky{failure: silence, refuse: 2}
		f := following(p)
		defer f.Close()
		if _, err := f.Next(t.Context()); !errors.Is(err, worker.ErrSilent) || p.opens != 1 {
			t.Errorf("before its start: %v after %d tries", err, p.opens)
		}
		f.started = true
		if event, err := f.Next(t.Context()); err != nil || event.Exit == nil || p.opens != 3 {
			t.Errorf("after its start: %+v, %v after %d tries", event, err, p.opens)
		}
	})
}

func TestFollowerPassesFinalErrors(t *testing.T) {
	for _, code := range []stacyvm.Code{stacyvm.CodeNotFound, stacyvm.CodeConflict, stacyvm.CodeInvalid, stacyvm.CodeInternal} {
		p := &flaky{failure: stacyvm.Errorf(code, "no"), refuse: 1 << 30}
		f := following(p)
		if _, err := f.Next(t.Context()); stacyvm.CodeOf(err) != code || p.opens != 1 {
			t.Errorf("%s: got %v after %d tries", code, err, p.opens)
		}
		_ = f.Close()
	}
}

func TestFollowerPassesGapsAndTellsWhenItsReaderLeaves(t *testing.T) {
	f := following(&flaky{})
	told := 0
	f.ended = func(exit *stacyvm.Exit) {
		if exit != nil {
			t.Error("an exit nobody saw was told")
		}
		told++
	}
	f.started = true
	for i, tt := range []struct {
		event stacyvm.OutputEvent
		fresh bool
		next  uint64
	}{
		{stacyvm.OutputEvent{Stream: stacyvm.Stdout, Offset: 0, Data: make([]byte, 10)}, true, 10},
		{stacyvm.OutputEvent{Stream: stacyvm.Stdout, Offset: 10, Gap: 90}, true, 100},
		{stacyvm.OutputEvent{Stream: stacyvm.Stdout, Offset: 10, Gap: 90}, false, 100},
		{stacyvm.OutputEvent{Stream: stacyvm.Stdout, Offset: 20, Data: make([]byte, 80)}, false, 100},
		{stacyvm.OutputEvent{Stream: stacyvm.Stdout, Offset: 90, Data: make([]byte, 20)}, true, 110},
		{stacyvm.OutputEvent{}, true, 110}, // a keepalive
	} {
		if fresh := f.note(&tt.event); fresh != tt.fresh || f.from.StdoutOffset != tt.next {
			t.Errorf("event %d: fresh %v, offset %d", i, fresh, f.from.StdoutOffset)
		}
	}
	_ = f.Close()
	_ = f.Close()
	if told != 1 {
		t.Errorf("the end was told %d times", told)
	}
}

func TestExecResultKeepsTheFirstPart(t *testing.T) {
	var r ExecResult
	part := bytes.Repeat([]byte("x"), MaxKept-1)
	r.add(stacyvm.OutputEvent{Stream: stacyvm.Stdout, Data: part})
	if r.Truncated {
		t.Error("truncated below the limit")
	}
	r.add(stacyvm.OutputEvent{Stream: stacyvm.Stdout, Data: []byte("ab")})
	r.add(stacyvm.OutputEvent{Stream: stacyvm.Stderr, Data: []byte("e")})
	if !r.Truncated || r.Stdout.Len() != MaxKept || !bytes.HasSuffix(bytes.Join(r.Stdout.Pieces(), nil), []byte("xa")) || r.Stderr.Len() != 1 {
		t.Errorf("kept %d bytes, truncated %v, stderr %d", r.Stdout.Len(), r.Truncated, r.Stderr.Len())
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rand.Uint32())
	}
	return b
}
