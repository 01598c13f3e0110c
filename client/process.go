package client

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// ExecRequest is one command. In mode "shell" (the default) Command is a shell text and Args are
// appended, each quoted; in mode "argv" Command is the program and Args go to it untouched.
type ExecRequest struct {
	Command string            `json:"command"`
	Args    []string          `json:"args,omitempty"`
	Mode    string            `json:"mode,omitempty"`
	Env     map[string]string `json:"env,omitempty"`
	Workdir string            `json:"workdir,omitempty"` // empty: the image's, or /workspace
	// name or uid, alone or with :group or :gid; empty: the image's, or root
	User     string    `json:"user,omitempty"`
	Timeout  string    `json:"timeout,omitempty"` // duration; empty: the server's default
	Terminal *Terminal `json:"pty,omitempty"`
	Stdin    bool      `json:"stdin,omitempty"`    // keep standard input open for Input
	Lossless bool      `json:"lossless,omitempty"` // unread output blocks the process instead of being dropped
	// ID names the process, so that a repeated start finds the first one; Start makes one when it
	// is empty.
	ID string `json:"id,omitempty"`
}

// Modes of ExecRequest.
const (
	ModeShell = "shell"
	ModeArgv  = "argv"
)

// Terminal is a window's size in characters.
type Terminal struct {
	Rows uint16 `json:"rows"`
	Cols uint16 `json:"cols"`
}

// ExecResult is a finished command. A non-zero exit code is a result, not an error.
type ExecResult struct {
	ExitCode  int    `json:"exit_code"`
	Stdout    string `json:"stdout"`
	Stderr    string `json:"stderr"`
	Duration  string `json:"duration"`
	Reason    string `json:"reason,omitempty"`    // oom: it, or what it had started, was ended for lack of memory
	Truncated bool   `json:"truncated,omitempty"` // a stream was longer than the server keeps for such an answer
}

// Process is one process of a sandbox.
type Process struct {
	ID          string    `json:"id"`
	PID         int64     `json:"pid"` // inside the sandbox; 0: it could not be started
	Command     string    `json:"command"`
	Args        []string  `json:"args"` // the whole argument vector
	User        string    `json:"user"`
	Workdir     string    `json:"workdir"`
	Terminal    bool      `json:"pty"`
	StdinOpen   bool      `json:"stdin_open"`
	Lossless    bool      `json:"lossless"`
	State       string    `json:"state"` // running or exited
	ExitCode    int       `json:"exit_code"`
	Signal      int       `json:"signal"` // that ended it; 0: none
	TimedOut    bool      `json:"timed_out"`
	Reason      string    `json:"reason"` // as in ExecResult
	Error       string    `json:"error"`  // why it could not be started
	StartedAt   time.Time `json:"started_at"`
	EndedAt     time.Time `json:"ended_at,omitzero"`
	StdoutBytes uint64    `json:"stdout_bytes"` // written so far
	StderrBytes uint64    `json:"stderr_bytes"`
	StdoutFirst uint64    `json:"stdout_first"` // offset of the oldest byte that can still be read
	StderrFirst uint64    `json:"stderr_first"`
	StreamsHeld bool      `json:"streams_held"` // a child that was left behind still held an output stream
}

// Running reports whether the process has not ended.
func (p Process) Running() bool { return p.State == "running" }

// Exec runs a command and returns its whole output when it has ended. It is never repeated by the
// client: use Start and Output to survive a broken connection. CodeTimeout: the command's own time
// limit passed.
func (c *Client) Exec(ctx context.Context, sandbox string, exec ExecRequest) (ExecResult, error) {
	var result ExecResult
	err := c.call(
		ctx,
		request{method: http.MethodPost, path: pathOf("sandboxes", sandbox, "exec"), body: exec, long: true},
		&result,
	)
	return result, err
}

// Start starts a process and returns at once; it goes on whoever reads its output.
func (c *Client) Start(ctx context.Context, sandbox string, exec ExecRequest) (Process, error) {
	if exec.ID == "" {
		exec.ID = newKey()
	}
	var process Process
	err := c.call(
		ctx,
		request{
			method: http.MethodPost,
			path:   pathOf("sandboxes", sandbox, "processes"),
			body:   exec,
			repeat: true,
			long:   true,
		},
		&process,
	)
	return process, err
}

// Processes lists a sandbox's processes, oldest first, ended ones too while they are kept.
func (c *Client) Processes(ctx context.Context, sandbox string) ([]Process, error) {
	var processes []Process
	err := c.call(
		ctx,
		request{method: http.MethodGet, path: pathOf("sandboxes", sandbox, "processes"), repeat: true, long: true},
		&processes,
	)
	return processes, err
}

// Process finds one process.
func (c *Client) Process(ctx context.Context, sandbox, process string) (Process, error) {
	return c.process(ctx, sandbox, process, nil, false)
}

// Wait returns when the process has ended; it survives a restart of the server.
func (c *Client) Wait(ctx context.Context, sandbox, process string) (Process, error) {
	return c.process(ctx, sandbox, process, url.Values{"wait": {"true"}}, true)
}

func (c *Client) process(
	ctx context.Context,
	sandbox, process string,
	query url.Values,
	patient bool,
) (Process, error) {
	var answer Process
	err := c.call(ctx, request{method: http.MethodGet, path: pathOf("sandboxes", sandbox, "processes", process),
		query: query, repeat: true, patient: patient, long: true}, &answer)
	return answer, err
}

// Signal sends a signal such as "TERM" to the process's whole group. "KILL" ends everything that
// the process started.
func (c *Client) Signal(ctx context.Context, sandbox, process, signal string) error {
	return c.call(
		ctx,
		request{method: http.MethodPost, path: pathOf("sandboxes", sandbox, "processes", process, "signal"),
			body: map[string]string{"signal": signal}, patient: true, long: true},
		nil,
	)
}

// Resize changes the window of a process that has a terminal.
func (c *Client) Resize(ctx context.Context, sandbox, process string, size Terminal) error {
	return c.call(
		ctx,
		request{method: http.MethodPost, path: pathOf("sandboxes", sandbox, "processes", process, "resize"),
			body: size, repeat: true, patient: true, long: true},
		nil,
	)
}
