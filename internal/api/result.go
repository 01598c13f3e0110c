package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"github.com/stacyvm/stacyvm/internal/api/middleware"
	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// ExecResult is a finished command. A non-zero exit code is a result, not an error.
type ExecResult struct {
	ExitCode     int    `json:"exit_code" doc:"128+n when signal n ended it; 126 or 127 when it could not be started."`
	Stdout       string `json:"stdout"`
	Stderr       string `json:"stderr"`
	StdoutBase64 string `json:"stdout_base64,omitempty" doc:"In place of stdout, with encoding base64."`
	StderrBase64 string `json:"stderr_base64,omitempty" doc:"In place of stderr, with encoding base64."`
	ExecEnd
}

// ExecEnd is what the answer to a command ends with.
type ExecEnd struct {
	Duration  string `json:"duration" example:"4.2ms"`
	Signal    int    `json:"signal,omitempty" doc:"That ended it."`
	Reason    string `json:"reason,omitempty" enum:"oom" doc:"oom: it, or a process that it had started, was ended because the sandbox was out of memory."`
	Error     string `json:"error,omitempty" doc:"Why it could not be started."`
	Truncated bool   `json:"truncated,omitempty" doc:"A stream was longer than 16 MiB, or than what was still kept of it."`
}

// resultWriter writes an ExecResult field by field, so that its output, which may be large, is not
// held once more.
type resultWriter struct {
	to     io.Writer
	binary bool
	buffer bytes.Buffer
	err    error // the first one; nothing is written after it
}

// write gives the whole answer. An output that is elsewhere comes from there.
func (w *resultWriter) write(
	result control.ExecResult,
	elsewhere func(stacyvm.Stream, func([]byte) error) (truncated bool, err error),
) error {
	w.text(fmt.Sprintf(`{"exit_code":%d`, result.Exit.Code))
	end := ExecEnd{
		Duration: elapsed(result.Exit.Duration), Signal: result.Exit.Signal, Reason: reasonOf(result.Exit),
		Error: result.Exit.Error, Truncated: result.Truncated,
	}
	for _, stream := range []stacyvm.Stream{stacyvm.Stdout, stacyvm.Stderr} {
		w.stream(stream, func(each func([]byte) error) error {
			kept := result.Stdout.Pieces()
			if stream == stacyvm.Stderr {
				kept = result.Stderr.Pieces()
			}
			if result.Elsewhere {
				truncated, err := elsewhere(stream, each)
				end.Truncated = end.Truncated || truncated
				return err
			}
			for _, piece := range kept {
				if err := each(piece); err != nil {
					return err
				}
			}
			return nil
		})
	}
	rest, _ := json.Marshal(end) // plain fields
	w.text("," + string(rest[1:]) + "\n")
	return w.err
}

// stream writes one stream's fields from its pieces.
func (w *resultWriter) stream(name stacyvm.Stream, from func(each func([]byte) error) error) {
	if !w.binary {
		w.text(`,"` + string(name) + `":"`)
		kept := &tail{}
		w.fail(from(func(piece []byte) error { return w.escaped(kept.add(piece)) }))
		w.fail(w.escaped(kept.flush()))
		w.text(`"`)
		return
	}
	w.text(`,"` + string(name) + `":"","` + string(name) + `_base64":"`)
	encoder := base64.NewEncoder(base64.StdEncoding, w.to)
	w.fail(from(func(piece []byte) error {
		_, err := encoder.Write(piece)
		return err
	}))
	w.fail(encoder.Close())
	w.text(`"`)
}

// escaped writes text as a part of a JSON string.
func (w *resultWriter) escaped(text string) error {
	if text == "" || w.err != nil {
		return w.err
	}
	w.buffer.Reset()
	encoder := json.NewEncoder(&w.buffer)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(text); err != nil {
		return err
	}
	quoted := w.buffer.Bytes() // in quotes, with a line's end
	_, err := w.to.Write(quoted[1 : len(quoted)-2])
	return err
}

func (w *resultWriter) text(s string) {
	if w.err == nil {
		_, err := io.WriteString(w.to, s)
		w.fail(err)
	}
}

func (w *resultWriter) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}

// execAnswer answers with a finished command. Output that is elsewhere is opened before the answer
// begins, so that a sandbox that does not answer is an ordinary error. Later the connection
// breaks, so that nobody takes the answer for whole.
func (a *api) execAnswer(
	ctx context.Context,
	sandbox stacyvm.SandboxID,
	result control.ExecResult,
	binary bool,
) (*written, error) {
	kept := map[stacyvm.Stream]control.Output{}
	if result.Elsewhere {
		for stream, from := range map[stacyvm.Stream]control.AttachRequest{
			stacyvm.Stdout: {StderrOffset: result.Exit.StderrBytes, NoFollow: true},
			stacyvm.Stderr: {StdoutOffset: result.Exit.StdoutBytes, NoFollow: true},
		} {
			output, err := a.Service.Attach(ctx, sandbox, result.Process.ID, from)
			if err != nil {
				closeAll(kept)
				return nil, err
			}
			kept[stream] = output
		}
	}
	return &written{func(c huma.Context) {
		defer closeAll(kept)
		setProcess(c.SetHeader, result.Process.ID, result.Process.Replayed)
		c.SetHeader("Content-Type", "application/json")
		c.SetStatus(http.StatusOK)
		w := &resultWriter{to: c.BodyWriter(), binary: binary}
		err := w.write(result, func(stream stacyvm.Stream, each func([]byte) error) (bool, error) {
			return copyKept(ctx, kept[stream], stream, each)
		})
		if err != nil {
			a.Logger.Debug(
				"an answer was broken off",
				"id",
				middleware.RequestID(ctx),
				"sandbox",
				sandbox,
				"error",
				err,
			)
			panic(http.ErrAbortHandler)
		}
	}}, nil
}

func closeAll(outputs map[stacyvm.Stream]control.Output) {
	for _, output := range outputs {
		_ = output.Close() // the process has ended
	}
}

// copyKept copies at most control.MaxKept bytes of one stream.
func copyKept(
	ctx context.Context,
	from control.Output,
	stream stacyvm.Stream,
	each func([]byte) error,
) (truncated bool, err error) {
	for left := control.MaxKept; ; {
		event, err := from.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return truncated, nil
		case err != nil:
			return truncated, err
		case event.Stream != stream:
			continue
		}
		truncated = truncated || event.Gap > 0 || len(event.Data) > left
		data := event.Data[:min(left, len(event.Data))]
		left -= len(data)
		if err := each(data); err != nil || left == 0 && truncated {
			return truncated, err
		}
	}
}
