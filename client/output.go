package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Stream names one of a process's output streams.
type Stream string

// The streams. A process with a terminal prints everything to Stdout.
const (
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// OutputEvent is one step of a process's output: Data, or a Gap where the server no longer had the
// bytes, or at last the Exit.
type OutputEvent struct {
	Stream Stream
	Offset uint64 // of the first byte of Data or Gap
	Data   []byte
	Gap    uint64 // number of missing bytes
	Exit   *Exit
}

// Exit is how a process ended.
type Exit struct {
	Code         int    `json:"exit_code"`
	Signal       int    `json:"signal"` // that ended it; 0: none
	TimedOut     bool   `json:"timed_out"`
	Reason       string `json:"reason"` // as in ExecResult
	Error        string `json:"error"`
	Duration     string `json:"duration"`
	StdoutBytes  uint64 `json:"stdout_bytes"`
	StderrBytes  uint64 `json:"stderr_bytes"`
	StdoutSHA256 string `json:"stdout_sha256"` // hex, over everything that was printed
	StderrSHA256 string `json:"stderr_sha256"`
}

// OutputRequest says from where to read.
type OutputRequest struct {
	StdoutOffset uint64
	StderrOffset uint64
	NoFollow     bool // end after what is there now
}

// Output streams a process's output and ends after its exit (with NoFollow: after what is there
// now). A connection that breaks, or a server that restarts within the client's patience, is met
// by reading on from the last byte: the bytes of a stream come in order, none twice, and a missing
// one is always a Gap. An error is the last thing that comes.
func (c *Client) Output(
	ctx context.Context,
	sandbox, process string,
	from OutputRequest,
) iter.Seq2[OutputEvent, error] {
	return func(yield func(OutputEvent, error) bool) {
		reader := outputReader{
			client: c, path: pathOf("sandboxes", sandbox, "processes", process, "output"), follow: !from.NoFollow,
			next: map[Stream]uint64{Stdout: from.StdoutOffset, Stderr: from.StderrOffset}, yield: yield,
		}
		if err := reader.run(ctx); err != nil && !errors.Is(err, errStopped) {
			yield(OutputEvent{}, err)
		}
	}
}

// errStopped: the caller wants no more events.
var errStopped = errors.New("stopped")

const (
	maxLine = 8 << 20
	// usualLine is room for what servers write at most, in bytes.
	usualLine = 128 << 10
)

type outputReader struct {
	client *Client
	path   string
	follow bool
	next   map[Stream]uint64 // offset of the next byte that the caller has not seen
	yield  func(OutputEvent, error) bool
	ended  bool
	alive  bool // the last thing that came on the present connection was output or a keepalive
}

// steady is how long a connection without output must have been good to renew the client's
// patience.
const steady = 10 * time.Second

// run connects again and again; progress on a connection, or a good time on it, renews the
// client's patience.
func (o *outputReader) run(ctx context.Context) error {
	reading := request{repeat: true, patient: true}
	for !o.ended {
		broke := error(nil)
		err := o.client.persist(ctx, reading, func() error {
			before, began := o.seen(), time.Now()
			err := o.connect(ctx)
			if good := o.seen() > before || o.alive && time.Since(began) > steady; good && again(err, reading) {
				broke, err = err, nil
			}
			return err
		})
		if err != nil {
			return err
		}
		if broke == nil {
			break
		}
	}
	return nil
}

func (o *outputReader) seen() uint64 { return o.next[Stdout] + o.next[Stderr] }

// connect reads one connection to its end.
func (o *outputReader) connect(ctx context.Context) error {
	o.alive = false
	response, err := o.client.send(ctx, request{method: http.MethodGet, path: o.path, query: url.Values{
		"stdout_offset": {strconv.FormatUint(o.next[Stdout], 10)},
		"stderr_offset": {strconv.FormatUint(o.next[Stderr], 10)},
		"follow":        {strconv.FormatBool(o.follow)},
		"encoding":      {"base64"},
	}})
	if err != nil {
		return err
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(make([]byte, usualLine), maxLine)
	for lines.Scan() {
		o.alive = true
		if err := o.line(lines.Bytes()); err != nil || o.ended {
			return err
		}
	}
	return o.endOf(ctx, lines.Err())
}

// endOf judges a connection that ended without an exit line.
func (o *outputReader) endOf(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, bufio.ErrTooLong):
		return fmt.Errorf("the server sent a line of more than %d bytes", maxLine)
	case err == nil && !o.follow:
		o.ended = true
		return nil
	case err == nil:
		err = io.ErrUnexpectedEOF
	}
	return broken(err)
}

type outputLine struct {
	Type   string `json:"type"`
	Stream Stream `json:"stream"`
	Offset uint64 `json:"offset"`
	Data   []byte `json:"data_base64"`
	Gap    uint64 `json:"gap"`
	Code   *int   `json:"exit_code"`
	Error  string `json:"error"`
}

func (o *outputReader) line(text []byte) error {
	if line, ok := dataLine(text); ok {
		return o.data(line)
	}
	var line outputLine
	if err := json.Unmarshal(text, &line); err != nil {
		return &brokenError{fmt.Errorf("unreadable line: %w", err)} // cut in the middle
	}
	switch {
	case line.Code != nil:
		return o.exit(text)
	case line.Type == "keepalive":
		return nil
	case line.Type == "error":
		o.alive = false
		return &brokenError{errors.New(line.Error)}
	case line.Gap > 0:
		return o.skip(line.Stream, line.Offset+line.Gap)
	default:
		return o.data(line)
	}
}

func (o *outputReader) exit(text []byte) error {
	exit := new(Exit)
	if err := json.Unmarshal(text, exit); err != nil {
		return &brokenError{fmt.Errorf("unreadable exit: %w", err)}
	}
	o.ended = true
	return o.give(OutputEvent{Exit: exit})
}

// skip reports the bytes up to end as missing, as far as the caller has not seen them.
func (o *outputReader) skip(stream Stream, end uint64) error {
	offset := o.next[stream]
	if end <= offset {
		return nil
	}
	o.next[stream] = end
	return o.give(OutputEvent{Stream: stream, Offset: offset, Gap: end - offset})
}

// data passes on what is new of a piece of output.
func (o *outputReader) data(line outputLine) error {
	if line.Stream != Stdout && line.Stream != Stderr {
		return nil // a later server's addition
	}
	if err := o.skip(line.Stream, line.Offset); err != nil {
		return err
	}
	seen := o.next[line.Stream] - line.Offset
	if seen >= uint64(len(line.Data)) {
		return nil
	}
	data := line.Data[seen:]
	o.next[line.Stream] += uint64(len(data))
	return o.give(OutputEvent{Stream: line.Stream, Offset: line.Offset + seen, Data: data})
}

func (o *outputReader) give(event OutputEvent) error {
	if !o.yield(event, nil) {
		o.ended = true
		return errStopped
	}
	return nil
}
