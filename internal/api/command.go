package api

import (
	"encoding/hex"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Launch is one command. In mode shell (the default) Command is a shell text and Args are
// appended, each quoted; in mode argv Command is the program and Args go to it untouched.
type Launch struct {
	Command  string            `json:"command,omitempty" maxLength:"1048576" doc:"Shell text, or with mode argv the program." example:"python3 -c 'print(6 * 7)'"`
	Args     []string          `json:"args,omitempty" maxItems:"4096" doc:"Mode shell: appended, each quoted. Mode argv: passed untouched."`
	Mode     string            `json:"mode,omitempty" maxLength:"16" doc:"shell (default) or argv."`
	Env      map[string]string `json:"env,omitempty" doc:"Names of letters, digits and _ that begin with no digit: a shell drops others."`
	Workdir  string            `json:"workdir,omitempty" maxLength:"4096" doc:"Absolute; the image's when empty, or /workspace."`
	User     string            `json:"user,omitempty" maxLength:"128" doc:"Name or uid, alone or with :group or :gid; the image's when empty, or root."`
	Timeout  string            `json:"timeout,omitempty" maxLength:"64" doc:"Duration; at its end the command is killed, with everything that it started." example:"30s"`
	Terminal *Terminal         `json:"pty,omitempty" doc:"Run on a terminal of this size; everything comes over stdout then."`
	Stdin    bool              `json:"stdin,omitempty" doc:"Keep standard input open."`
	Lossless *bool             `json:"lossless,omitempty" doc:"Unread output blocks the process instead of being dropped. Default: true where this request reads the output, false where the process is left alone."`
	ID       string            `json:"id,omitempty" doc:"Name of the process; a start with a known name finds the first one." pattern:"^[A-Za-z0-9_-]{0,64}$" patternDescription:"1 to 64 letters, digits, - or _"`
}

// Terminal is a window's size in characters.
type Terminal struct {
	Rows uint16 `json:"rows" minimum:"1" maximum:"65535"`
	Cols uint16 `json:"cols" minimum:"1" maximum:"65535"`
}

// Exec is one command whose output is the answer.
type Exec struct {
	Launch
	Stream   bool   `json:"stream,omitempty" doc:"Answer with the output as it comes, as NDJSON."`
	Encoding string `json:"encoding,omitempty" maxLength:"16" doc:"text (default; bytes that are not UTF-8 are replaced) or base64."`
}

// request translates the body; lossless is the default where the body says nothing.
func (l Launch) request(lossless bool) (control.ExecRequest, error) {
	timeout, err := duration("timeout", l.Timeout)
	if err != nil {
		return control.ExecRequest{}, err
	}
	request := control.ExecRequest{
		ProcessID: l.ID, Command: l.Command, Args: l.Args, Mode: l.Mode, Env: l.Env, Workdir: l.Workdir, User: l.User,
		Timeout: timeout, Stdin: l.Stdin, Lossless: lossless,
	}
	if l.Lossless != nil {
		request.Lossless = *l.Lossless
	}
	if l.Terminal != nil {
		request.Terminal = &stacyvm.Terminal{Rows: l.Terminal.Rows, Cols: l.Terminal.Cols}
	}
	return request, nil
}

// encodingOf reads the name of an encoding.
func encodingOf(name string) (binary bool, err error) {
	switch name {
	case "", "text":
		return false, nil
	case "base64":
		return true, nil
	}
	return false, stacyvm.Invalid("encoding", "%.20q is neither text nor base64", name)
}

func elapsed(d time.Duration) string { return d.Round(10 * time.Microsecond).String() }

// printable replaces what is not UTF-8.
func printable(data []byte) string { return strings.ToValidUTF8(string(data), "\uFFFD") }

// Exit is how a process ended; it is part of the last frame of its output.
type Exit struct {
	Code         int    `json:"exit_code"`
	Duration     string `json:"duration"`
	Signal       int    `json:"signal,omitempty"`
	TimedOut     bool   `json:"timed_out,omitempty"`
	Reason       string `json:"reason,omitempty" enum:"oom" doc:"oom: it, or a process that it had started, was ended because the sandbox was out of memory."`
	Error        string `json:"error,omitempty" doc:"Why it could not be started."`
	StdoutBytes  uint64 `json:"stdout_bytes" doc:"Printed in all."`
	StderrBytes  uint64 `json:"stderr_bytes"`
	StdoutSHA256 string `json:"stdout_sha256,omitempty" doc:"Hex, over everything that was printed."`
	StderrSHA256 string `json:"stderr_sha256,omitempty"`
	StreamsHeld  bool   `json:"streams_held,omitempty" doc:"A child that was left behind still held an output stream."`
}

// reasonOf says why a process ended that nobody asked to end; empty where there is nothing to say.
func reasonOf(e stacyvm.Exit) string {
	if e.OOM {
		return string(stacyvm.ReasonOOM)
	}
	return ""
}

func exitOf(e stacyvm.Exit) Exit {
	return Exit{
		Code:         e.Code,
		Duration:     elapsed(e.Duration),
		Signal:       e.Signal,
		TimedOut:     e.TimedOut,
		Reason:       reasonOf(e),
		Error:        e.Error,
		StdoutBytes:  e.StdoutBytes,
		StderrBytes:  e.StderrBytes,
		StdoutSHA256: hex.EncodeToString(e.StdoutSHA256),
		StderrSHA256: hex.EncodeToString(e.StderrSHA256),
		StreamsHeld:  e.StreamsHeld,
	}
}
