package api

import (
	"context"
	"net/http"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Process is one process of a sandbox.
type Process struct {
	ID          string    `json:"id"`
	PID         int64     `json:"pid" doc:"Inside the sandbox; 0: it could not be started."`
	Command     string    `json:"command" doc:"As it was given."`
	Args        []string  `json:"args" doc:"The whole argument vector."`
	User        string    `json:"user"`
	Workdir     string    `json:"workdir"`
	Terminal    bool      `json:"pty"`
	StdinOpen   bool      `json:"stdin_open"`
	Lossless    bool      `json:"lossless"`
	State       string    `json:"state" enum:"running,exited"`
	ExitCode    int       `json:"exit_code" doc:"0 while it runs."`
	Signal      int       `json:"signal,omitempty" doc:"That ended it."`
	TimedOut    bool      `json:"timed_out,omitempty"`
	Reason      string    `json:"reason,omitempty" enum:"oom" doc:"oom: it, or a process that it had started, was ended because the sandbox was out of memory."`
	Error       string    `json:"error,omitempty" doc:"Why it could not be started."`
	StartedAt   time.Time `json:"started_at"`
	EndedAt     time.Time `json:"ended_at,omitzero"`
	StdoutBytes uint64    `json:"stdout_bytes" doc:"Written so far."`
	StderrBytes uint64    `json:"stderr_bytes"`
	StdoutFirst uint64    `json:"stdout_first" doc:"Offset of the oldest byte that can still be read."`
	StderrFirst uint64    `json:"stderr_first"`
	StreamsHeld bool      `json:"streams_held,omitempty" doc:"A child that was left behind still held an output stream."`
}

func processOf(p stacyvm.Process) Process {
	process := Process{
		ID:          p.ID,
		PID:         p.PID,
		Command:     p.Label,
		Args:        each(p.Argv, func(arg string) string { return arg }),
		User:        p.User,
		Workdir:     p.Workdir,
		Terminal:    p.Terminal,
		StdinOpen:   p.StdinOpen,
		Lossless:    p.Lossless,
		State:       "running",
		StartedAt:   p.StartedAt.UTC(),
		EndedAt:     p.EndedAt,
		StdoutBytes: p.Stdout.Bytes,
		StderrBytes: p.Stderr.Bytes,
		StdoutFirst: p.Stdout.First,
		StderrFirst: p.Stderr.First,
	}
	if process.Command == "" {
		process.Command = strings.Join(p.Argv, " ")
	}
	if p.Exit != nil {
		process.State, process.EndedAt = "exited", p.EndedAt.UTC()
		process.ExitCode, process.Signal, process.TimedOut = p.Exit.Code, p.Exit.Signal, p.Exit.TimedOut
		process.Error, process.StreamsHeld = p.Exit.Error, p.Exit.StreamsHeld
		process.Reason = reasonOf(*p.Exit)
	}
	return process
}

// ProcessPath is the input of routes below one process.
type ProcessPath struct {
	SandboxPath
	PID string `path:"pid" pattern:"^[A-Za-z0-9._-]{1,64}$" patternDescription:"1 to 64 letters, digits, ., - or _" doc:"The process's id, not its number inside the sandbox."`
}

type startInput struct {
	SandboxPath
	Body Launch
}

type waitInput struct {
	ProcessPath
	Wait bool `query:"wait" doc:"Answer when the process has ended."`
}

type outputInput struct {
	ProcessPath
	StdoutOffset uint64 `query:"stdout_offset"`
	StderrOffset uint64 `query:"stderr_offset"`
	Follow       bool   `query:"follow" default:"true" doc:"false: end after what is there now."`
	Encoding     string `query:"encoding" maxLength:"16" doc:"text (default) or base64."`
}

type inputInput struct {
	ProcessPath
	Body struct {
		Data       *string `json:"data,omitempty"`
		DataBase64 *string `json:"data_base64,omitempty" doc:"At most 1 MiB."`
		Offset     *uint64 `json:"offset,omitempty" doc:"Of the first byte in the whole input; makes a repeat harmless."`
		Close      bool    `json:"close,omitempty" doc:"End the input after the data."`
	}
}

// Received counts input.
type Received struct {
	Received uint64 `json:"received" doc:"Bytes of input that the process was given in all."`
}

type signalInput struct {
	ProcessPath
	Body struct {
		Signal string `json:"signal" minLength:"1" maxLength:"16" example:"TERM"`
	}
}

type resizeInput struct {
	ProcessPath
	Body Terminal
}

const tagProcesses = "processes"

func (a *api) processRoutes() {
	const all, one = "/sandboxes/{id}/processes", "/sandboxes/{id}/processes/{pid}"
	register(a, route{method: http.MethodPost, path: all, id: "start", tag: tagProcesses, status: http.StatusCreated,
		summary: "Start a process and leave it alone; its output is kept", errors: []int{404, 409, 429}}, a.start)
	register(a, route{method: http.MethodGet, path: all, id: "list-processes", tag: tagProcesses,
		summary: "List processes, oldest first, ended ones too while they are kept", errors: []int{404, 409},
		responses: a.listOf("The processes.", reflect.TypeFor[[]Process]())}, a.processes)
	register(
		a,
		route{method: http.MethodGet, path: one, id: "process", tag: tagProcesses, stream: true, streamWith: "wait",
			summary: "Look a process up, or wait for its end", errors: []int{404, 409}},
		a.process,
	)
	register(a, route{method: http.MethodGet, path: one + "/output", id: "output", tag: tagProcesses, stream: true,
		summary: "Read a process's output from an offset on, and its exit", errors: []int{404, 409},
		responses: map[string]*huma.Response{"200": {
			Description: "One frame per line, with offsets; a keepalive when nothing comes for 15 s; the last one with the exit code.",
			Content: map[string]*huma.MediaType{
				"application/x-ndjson": {Schema: a.schema(reflect.TypeFor[Frame]())},
			},
		}}}, a.output)
	register(
		a,
		route{
			method:  http.MethodPost,
			path:    one + "/input",
			id:      "input",
			tag:     tagProcesses,
			maxBody: maxInputBody,
			summary: "Write to standard input and wait until the process's pipe took it",
			errors:  []int{404, 409, 413},
		},
		a.input,
	)
	register(a, route{
		method:  http.MethodPost,
		path:    one + "/signal",
		id:      "signal",
		tag:     tagProcesses,
		summary: "Send a signal to the process's whole group, or end with KILL everything that it started",
		errors:  []int{404, 409},
	}, a.signal)
	register(a, route{method: http.MethodPost, path: one + "/resize", id: "resize", tag: tagProcesses,
		summary: "Change the window of a process that has a terminal", errors: []int{404, 409}}, a.resize)
}

func (a *api) start(ctx context.Context, in *startInput) (*body[Process], error) {
	request, err := in.Body.request(false)
	if err != nil {
		return nil, err
	}
	process, err := a.Service.Start(ctx, in.sandbox(), request)
	return answered(processOf(process), err)
}

func (a *api) processes(ctx context.Context, in *SandboxPath) (*written, error) {
	processes, err := a.Service.Processes(ctx, in.sandbox())
	return listed(processes, err, processOf)
}

func (a *api) process(ctx context.Context, in *waitInput) (*body[Process], error) {
	look := a.Service.Process
	if in.Wait {
		look = a.Service.Wait
	}
	process, err := look(ctx, in.sandbox(), in.PID)
	return answered(processOf(process), err)
}

func (a *api) output(ctx context.Context, in *outputInput) (*written, error) {
	binary, err := encodingOf(in.Encoding)
	if err != nil {
		return nil, err
	}
	output, err := a.Service.Attach(ctx, in.sandbox(), in.PID, control.AttachRequest{
		StdoutOffset: in.StdoutOffset, StderrOffset: in.StderrOffset, NoFollow: !in.Follow,
	})
	if err != nil {
		return nil, err
	}
	return &written{func(c huma.Context) {
		defer output.Close()
		setProcess(c.SetHeader, in.PID, false)
		a.newLines(c, newFramer(binary, true)).copyAll(output)
	}}, nil
}

func (a *api) input(ctx context.Context, in *inputInput) (*body[Received], error) {
	data, err := bytesOf("data", in.Body.Data, in.Body.DataBase64)
	if err != nil {
		return nil, err
	}
	received, err := a.Service.Input(
		ctx,
		in.sandbox(),
		in.PID,
		control.InputRequest{Data: data, Offset: in.Body.Offset, Close: in.Body.Close},
	)
	return answered(Received{received}, err)
}

func (a *api) signal(ctx context.Context, in *signalInput) (*body[Status], error) {
	number, err := control.SignalNumber(in.Body.Signal)
	if err != nil {
		return nil, err
	}
	return done("signalled", a.Service.Signal(ctx, in.sandbox(), in.PID, number))
}

func (a *api) resize(ctx context.Context, in *resizeInput) (*body[Status], error) {
	size := stacyvm.Terminal{Rows: in.Body.Rows, Cols: in.Body.Cols}
	return done("resized", a.Service.Resize(ctx, in.sandbox(), in.PID, size))
}
