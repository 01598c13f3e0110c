package guest

import (
	"context"
	"time"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
)

// maxMessage is the largest message that is read from a guest, in bytes.
const maxMessage = 4 << 20

// Client asks one guest program. It is cheap to make, holds nothing that must be closed and is
// safe for concurrent use.
//
// Every method returns *stacyvm.Error: CodeUnavailable when the guest cannot be reached, its
// connection broke or it broke the protocol; CodeTimeout when the context's deadline passed; the
// context's own cause when that is a *stacyvm.Error. Further codes stand at the methods. Nothing
// in an answer is trusted: strings are clipped and cleaned, numbers bounded, and an id that the
// caller knows is the caller's.
type Client struct{ conn Conn }

// NewClient makes a client of the guest that conn reaches. The connection's scope decides which
// methods work; the others give CodeForbidden.
func NewClient(conn Conn) *Client { return &Client{Conn{HTTP: rawDoer{conn.HTTP}, URL: conn.URL}} }

// options hold for every call.
var options = connect.WithClientOptions(
	connect.WithCodec(codec{}),
	connect.WithReadMaxBytes(maxMessage),
	connect.WithAcceptCompression("gzip", nil, nil), // none: the bytes do not leave the machine's memory
)

// callerOf makes what calls one procedure. Each call makes its own: those of all procedures cost as
// much as a call.
func callerOf[Q, A any](c *Client, procedure string) *connect.Client[Q, A] {
	return connect.NewClient[Q, A](c.conn.HTTP, c.conn.URL+procedure, options)
}

// ask makes one unary call.
func ask[A, Q any](ctx context.Context, c *Client, procedure string, question *Q) (*A, error) {
	answer, err := callerOf[Q, A](c, procedure).CallUnary(ctx, connect.NewRequest(question))
	if err != nil {
		return nil, failure(ctx, err)
	}
	return answer.Msg, nil
}

// receive makes a call whose answer is a stream.
func receive[A, Q any](
	ctx context.Context, c *Client, procedure string, question *connect.Request[Q],
) (*connect.ServerStreamForClient[A], error) {
	return callerOf[Q, A](c, procedure).CallServerStream(ctx, question)
}

// Run starts a command and gives its output; the started event comes first. ctx is the life of the
// stream, not of the process. The same command with the same process id again finds the first
// process. CodeInvalid: the command is not one.
func (c *Client) Run(ctx context.Context, command stacyvm.Command) (*Output, error) {
	request, most, release := bulk(startRequest(command))
	at := place{process: command.ProcessID, most: most}
	o, err := openOutput(ctx, at, true, release, func(ctx context.Context) (*receiver, error) {
		return receive[guestv1.ProcessEvent](ctx, c, guestv1connect.ProcessServiceRunProcedure, request)
	})
	if err == nil && (o.first == nil || o.first.Started == nil) {
		_ = o.Close()
		return nil, nonsense("a process did not begin with its start")
	}
	return o, err
}

// Attach gives a process's output from the offsets on. With follow it goes on to the exit,
// otherwise it ends after what is there now. CodeNotFound: no such process.
func (c *Client) Attach(
	ctx context.Context,
	process string,
	stdoutOffset, stderrOffset uint64,
	follow bool,
) (*Output, error) {
	request, most, release := bulk(&guestv1.AttachRequest{
		Id: process, StdoutOffset: stdoutOffset, StderrOffset: stderrOffset, NoFollow: !follow,
	})
	at := place{process: process, stdout: stdoutOffset, stderr: stderrOffset, most: most}
	return openOutput(ctx, at, follow, release, func(ctx context.Context) (*receiver, error) {
		return receive[guestv1.ProcessEvent](ctx, c, guestv1connect.ProcessServiceAttachProcedure, request)
	})
}

// Start starts a command and leaves it. A program that cannot be started is a process that has
// ended with 126 or 127.
func (c *Client) Start(ctx context.Context, command stacyvm.Command) (stacyvm.Process, error) {
	answer, err := ask[guestv1.StartResponse](ctx, c, guestv1connect.ProcessServiceStartProcedure,
		startRequest(command))
	if err != nil {
		return stacyvm.Process{}, err
	}
	return process(answer.GetProcess(), command.ProcessID), nil
}

// Wait returns when a process has ended and its streams are drained. CodeNotFound: no such
// process.
func (c *Client) Wait(ctx context.Context, id string) (stacyvm.Process, error) {
	answer, err := ask[guestv1.WaitResponse](ctx, c, guestv1connect.ProcessServiceWaitProcedure,
		&guestv1.WaitRequest{Id: id})
	if err != nil {
		return stacyvm.Process{}, err
	}
	ended := process(answer.GetProcess(), id)
	if ended.Exit == nil {
		return stacyvm.Process{}, nonsense("a wait ended before its process")
	}
	return ended, nil
}

// WatchExits tells of the end of every process that follows the given number, in order, until ctx
// ends or the connection breaks; the error says which. It tells nothing that the guest does not
// know any more: then a number does not follow the one before. The exits lack the counts and the
// sums of their streams.
func (c *Client) WatchExits(
	ctx context.Context,
	after uint64,
	told func(number uint64, id string, exit *stacyvm.Exit),
) error {
	stream, err := receive[guestv1.WatchExitsResponse](ctx, c, guestv1connect.ProcessServiceWatchExitsProcedure,
		connect.NewRequest(&guestv1.WatchExitsRequest{After: after}))
	if err != nil {
		return failure(ctx, err)
	}
	defer stream.Close()
	for stream.Receive() {
		for _, e := range stream.Msg().GetExits() {
			if e.GetNumber() <= after || e.GetExit() == nil {
				return nonsense("an end does not follow the one before")
			}
			after = e.GetNumber()
			told(after, text(e.GetId(), maxName), exit(e.GetExit()))
		}
	}
	if err := stream.Err(); err != nil {
		return failure(ctx, err)
	}
	return cut()
}

// Processes lists what runs and what has ended and is still kept, oldest first.
func (c *Client) Processes(ctx context.Context) ([]stacyvm.Process, error) {
	answer, err := ask[guestv1.ListResponse](ctx, c, guestv1connect.ProcessServiceListProcedure,
		&guestv1.ListRequest{})
	if err != nil {
		return nil, err
	}
	list := make([]stacyvm.Process, len(answer.GetProcesses()))
	for i, p := range answer.GetProcesses() {
		list[i] = process(p, "")
	}
	return list, nil
}

// Input writes to standard input and gives the number of bytes that the process has taken in all;
// it returns when the process's pipe has taken these. At most 1 MiB. With the offset of its first
// byte it may be repeated. CodeConflict: the input is closed; CodeNotFound: no such process.
func (c *Client) Input(
	ctx context.Context,
	process string,
	data []byte,
	offset *uint64,
	closeAfter bool,
) (received uint64, err error) {
	answer, err := ask[guestv1.InputResponse](ctx, c, guestv1connect.ProcessServiceInputProcedure,
		&guestv1.InputRequest{Id: process, Data: data, Offset: offset, Close: closeAfter})
	return answer.GetReceived(), err
}

// Signal signals a process's whole group; SIGKILL ends everything that the process started.
// CodeConflict: it has ended; CodeNotFound: no such process.
func (c *Client) Signal(ctx context.Context, process string, signal int) error {
	_, err := ask[guestv1.SignalResponse](ctx, c, guestv1connect.ProcessServiceSignalProcedure,
		&guestv1.SignalRequest{Id: process, Signal: int32(signal)}) // 1-64
	return err
}

// Resize changes the window of a process's terminal. CodeConflict: it has none; CodeNotFound: no
// such process.
func (c *Client) Resize(ctx context.Context, process string, size stacyvm.Terminal) error {
	_, err := ask[guestv1.ResizeResponse](ctx, c, guestv1connect.ProcessServiceResizeProcedure,
		&guestv1.ResizeRequest{Id: process, Terminal: window(&size)})
	return err
}

func startRequest(command stacyvm.Command) *guestv1.StartRequest {
	return &guestv1.StartRequest{
		Id: command.ProcessID, Argv: command.Argv, Env: command.Env, Workdir: command.Workdir, User: command.User,
		TimeoutMs: wholeMilliseconds(command.Timeout), Terminal: window(command.Terminal), Stdin: command.Stdin,
		Lossless: command.Lossless, Label: command.Label, Tag: command.Tag,
	}
}

// wholeMilliseconds rounds up, so that a short limit does not become none.
func wholeMilliseconds(d time.Duration) int64 {
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

func window(size *stacyvm.Terminal) *guestv1.Terminal {
	if size == nil {
		return nil
	}
	return &guestv1.Terminal{Rows: uint32(size.Rows), Cols: uint32(size.Cols)}
}
