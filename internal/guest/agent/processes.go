package agent

import (
	"context"
	"errors"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/guest"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

const (
	// mostShown bounds what lists say of a command.
	mostShown = 1 << 10
	mostInput = 1 << 20
	mostTag   = 128
	// lastSignal is the kernel's highest number.
	lastSignal = 64
)

var validID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,64}$`)

// processService is guestv1connect.ProcessServiceHandler.
type processService struct{ agent *Agent }

func invalid(text string) error {
	return connect.NewError(connect.CodeInvalidArgument, errors.New(text))
}

func (s processService) Run(
	ctx context.Context,
	req *connect.Request[guestv1.StartRequest],
	out *connect.ServerStream[guestv1.ProcessEvent],
) error {
	p, err := s.agent.start(req.Msg)
	if err != nil {
		return err
	}
	if err := out.Send(
		&guestv1.ProcessEvent{Event: &guestv1.ProcessEvent_Started{Started: p.describe()}},
	); err != nil {
		return err
	}
	r := &reader{
		p: p, send: out.Send, answer: rawAnswer(ctx), frame: guest.FrameOf(req.Header(), frameSize), begun: true,
	}
	return r.follow(ctx, [2]uint64{})
}

func (s processService) Start(
	_ context.Context,
	req *connect.Request[guestv1.StartRequest],
) (*connect.Response[guestv1.StartResponse], error) {
	p, err := s.agent.start(req.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&guestv1.StartResponse{Process: p.describe()}), nil
}

func (s processService) Attach(
	ctx context.Context,
	req *connect.Request[guestv1.AttachRequest],
	out *connect.ServerStream[guestv1.ProcessEvent],
) error {
	p, err := s.agent.table.get(req.Msg.Id)
	if err != nil {
		return err
	}
	r := &reader{
		p: p, send: out.Send, answer: rawAnswer(ctx), frame: guest.FrameOf(req.Header(), frameSize),
		noFollow: req.Msg.NoFollow,
	}
	return r.follow(ctx, [2]uint64{req.Msg.StdoutOffset, req.Msg.StderrOffset})
}

func (s processService) Wait(
	ctx context.Context,
	req *connect.Request[guestv1.WaitRequest],
) (*connect.Response[guestv1.WaitResponse], error) {
	p, err := s.agent.table.get(req.Msg.Id)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.exited:
		return connect.NewResponse(&guestv1.WaitResponse{Process: p.describe()}), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s processService) WatchExits(
	ctx context.Context,
	req *connect.Request[guestv1.WatchExitsRequest],
	out *connect.ServerStream[guestv1.WatchExitsResponse],
) error {
	return s.agent.exits.watch(ctx, req.Msg.After, out.Send)
}

func (s processService) Input(
	ctx context.Context,
	req *connect.Request[guestv1.InputRequest],
) (*connect.Response[guestv1.InputResponse], error) {
	if len(req.Msg.Data) > mostInput {
		return nil, invalid("data: more than 1 MiB")
	}
	p, err := s.agent.table.get(req.Msg.Id)
	if err != nil {
		return nil, err
	}
	received, err := p.input.write(ctx, req.Msg.Data, req.Msg.Offset, req.Msg.Close)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&guestv1.InputResponse{Received: received}), nil
}

func (s processService) Signal(
	_ context.Context,
	req *connect.Request[guestv1.SignalRequest],
) (*connect.Response[guestv1.SignalResponse], error) {
	if req.Msg.Signal < 1 || req.Msg.Signal > lastSignal {
		return nil, invalid("signal: must be 1 to 64")
	}
	p, err := s.agent.table.get(req.Msg.Id)
	if err != nil {
		return nil, err
	}
	if err := p.signal(syscall.Signal(req.Msg.Signal)); err != nil {
		return nil, err
	}
	return connect.NewResponse(&guestv1.SignalResponse{}), nil
}

func (s processService) Resize(
	_ context.Context,
	req *connect.Request[guestv1.ResizeRequest],
) (*connect.Response[guestv1.ResizeResponse], error) {
	p, err := s.agent.table.get(req.Msg.Id)
	if err != nil {
		return nil, err
	}
	if p.terminal == nil || p.hasExited() || resize(p.terminal, req.Msg.Terminal) != nil {
		return nil, connect.NewError(connect.CodeFailedPrecondition, errors.New("the process has no terminal"))
	}
	return connect.NewResponse(&guestv1.ResizeResponse{}), nil
}

func (s processService) List(
	context.Context,
	*connect.Request[guestv1.ListRequest],
) (*connect.Response[guestv1.ListResponse], error) {
	return connect.NewResponse(&guestv1.ListResponse{Processes: s.agent.table.list()}), nil
}

// start runs a process, or finds the one that an earlier request with the same id has started.
func (a *Agent) start(req *guestv1.StartRequest) (*process, error) {
	if err := check(req); err != nil {
		return nil, err
	}
	p, isNew, err := a.table.claim(req.Id, func(id string) *process { return a.newProcess(id, req) })
	if err != nil {
		return nil, err
	}
	if !isNew {
		<-p.ready
		return p, nil
	}
	defer close(p.ready)
	if fail := a.launch(p, req); fail != nil {
		close(p.stdout.ended)
		close(p.stderr.ended)
		close(p.dead)
		p.setExit(&guestv1.Exit{Code: fail.code, Error: fail.Error()})
		a.table.markExited(p)
	}
	return p, nil
}

func check(req *guestv1.StartRequest) error {
	if req.Id != "" && !validID.MatchString(req.Id) {
		return invalid("id: must be 1 to 64 letters, digits, _ or -")
	}
	if len(req.Tag) > mostTag {
		return invalid("tag: more than 128 bytes")
	}
	if len(req.Argv) == 0 {
		return invalid("argv: must not be empty")
	}
	if req.TimeoutMs < 0 || req.TimeoutMs > int64(100*365*24*time.Hour/time.Millisecond) {
		return invalid("timeout_ms: must be 0 to 100 years")
	}
	for _, text := range append(slices.Clip(req.Argv), req.Workdir, req.User) {
		if strings.ContainsRune(text, 0) {
			return invalid("argv, workdir and user must not hold a zero byte")
		}
	}
	return checkEnv("env", req.Env)
}

func checkEnv(field string, env map[string]string) error {
	for name, value := range env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
			return invalid(field + ": a name must not be empty or hold =, and nothing a zero byte")
		}
	}
	return nil
}

func (a *Agent) newProcess(id string, req *guestv1.StartRequest) *process {
	dead := make(chan struct{})
	p := &process{
		id:       id,
		started:  time.Now(),
		lossless: req.Lossless,
		input:    newInput(dead),
		ownMark:  a.ownMark,
		freezer:  a.freezer,
		exits:    &a.exits,
		about: about{
			argv:    shown(req.Argv),
			label:   cut(req.Label, mostShown),
			tag:     req.Tag,
			workdir: cut(req.Workdir, mostShown),
			user:    cut(req.User, mostShown),
		},
		ready:  make(chan struct{}),
		dead:   dead,
		exited: make(chan struct{}),
	}
	limits := ringLimits{memory: a.ringBytes, spill: a.spillBytes, dir: a.config.SpillDir}
	if req.RingBytes > 0 {
		limits.memory = req.RingBytes
	}
	if req.SpillBytes > 0 {
		limits.spill = req.SpillBytes
	}
	p.stdout = newStream(newRing(limits, req.Lossless, &p.notifier, &a.memory), &a.tail)
	p.stderr = newStream(newRing(limits, req.Lossless, &p.notifier, &a.memory), &a.tail)
	p.stdout.grown, p.stderr.grown = a.table.grown, a.table.grown
	return p
}

// shown copies the beginning of a command.
func shown(argv []string) []string {
	var list []string
	left := mostShown
	for _, arg := range argv {
		if left <= 0 {
			return append(list, "…")
		}
		list = append(list, cut(arg, left))
		left -= len(arg) + 1
	}
	return list
}

// cut copies text, without its end when it is too long, and as valid UTF-8: messages take nothing
// else.
func cut(text string, most int) string {
	if len(text) > most {
		text = text[:most] + "…"
	}
	return strings.ToValidUTF8(strings.Clone(text), "\uFFFD")
}
