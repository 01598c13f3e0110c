package guest

import (
	"context"
	"errors"
	"io"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/budget"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
)

const (
	// maxEntries and maxListing bound what one listing or glob may hold, in entries and bytes.
	maxEntries = 100_000
	maxListing = 16 << 20
	// entryCost is what an entry counts beside its strings.
	entryCost = 64
	// entryMemory is what an entry takes in memory beside its strings.
	entryMemory = 160
)

// ListFiles lists a directory, sorted by name. CodeNotFound; CodeInvalid: not a directory;
// CodeTooLarge: over 100,000 entries or 16 MiB; CodeUnavailable: the request's budget has no room
// for them.
func (c *Client) ListFiles(ctx context.Context, path string) ([]stacyvm.FileInfo, error) {
	files := []stacyvm.FileInfo{}
	size := listing{account: budget.From(ctx)}
	err := collect(
		ctx,
		c,
		guestv1connect.FileServiceListProcedure,
		&guestv1.ListFilesRequest{Path: path},
		func(answer *guestv1.ListFilesResponse) error {
			for _, f := range answer.GetFiles() {
				info := file(f)
				if err := size.spend(len(info.Path) + len(info.LinkTarget)); err != nil {
					return err
				}
				files = append(files, info)
			}
			return nil
		},
	)
	if err != nil {
		return nil, err
	}
	return files, nil
}

// GlobFiles gives the paths that match a pattern, sorted; ** crosses directories. CodeInvalid: a
// bad pattern; CodeTooLarge as for ListFiles.
func (c *Client) GlobFiles(ctx context.Context, pattern string) ([]string, error) {
	paths := []string{}
	size := listing{account: budget.From(ctx)}
	err := collect(
		ctx,
		c,
		guestv1connect.FileServiceGlobProcedure,
		&guestv1.GlobRequest{Pattern: pattern},
		func(answer *guestv1.GlobResponse) error {
			for _, path := range answer.GetPaths() {
				path = text(path, maxText)
				if err := size.spend(len(path)); err != nil {
					return err
				}
				paths = append(paths, path)
			}
			return nil
		},
	)
	if err != nil {
		return nil, err
	}
	return paths, nil
}

// listing bounds what a list may hold, by itself and together with other requests.
type listing struct {
	account        *budget.Account
	entries, bytes int
}

func (l *listing) spend(bytes int) error {
	l.entries++
	l.bytes += bytes + entryCost
	if !l.account.Take(bytes + entryMemory) {
		return budget.Refused()
	}
	if l.entries > maxEntries || l.bytes > maxListing {
		return stacyvm.Errorf(
			stacyvm.CodeTooLarge,
			"there are over %d entries or %d MiB of them",
			maxEntries,
			maxListing>>20,
		)
	}
	return nil
}

// collect reads a stream of answers to its end.
func collect[Q, A any](
	ctx context.Context,
	c *Client,
	procedure string,
	question *Q,
	take func(*A) error,
) error {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := receive[A](ctx, c, procedure, connect.NewRequest(question))
	if err != nil {
		defer cancel()
		return failure(ctx, err)
	}
	defer stream.Close()
	defer cancel() // before the close, which waits
	for stream.Receive() {
		if err := take(stream.Msg()); err != nil {
			return err
		}
	}
	return failure(ctx, stream.Err())
}

// StatFile tells of one file; it does not follow a last symbolic link. CodeNotFound.
func (c *Client) StatFile(ctx context.Context, path string) (stacyvm.FileInfo, error) {
	answer, err := ask[guestv1.StatResponse](ctx, c, guestv1connect.FileServiceStatProcedure,
		&guestv1.StatRequest{Path: path})
	if err != nil {
		return stacyvm.FileInfo{}, err
	}
	return file(answer.GetInfo()), nil
}

// MakeDir makes a directory and its parents; mode 0 is 0755. A directory that is there is a
// success. CodeInvalid: something else is there.
func (c *Client) MakeDir(ctx context.Context, path string, mode uint32) error {
	_, err := ask[guestv1.MkdirResponse](ctx, c, guestv1connect.FileServiceMkdirProcedure,
		&guestv1.MkdirRequest{Path: path, Mode: mode})
	return err
}

// MoveFile renames a file or directory and makes the parents of its new place; a file that is
// there is replaced.
func (c *Client) MoveFile(ctx context.Context, from, to string) error {
	_, err := ask[guestv1.MoveResponse](ctx, c, guestv1connect.FileServiceMoveProcedure,
		&guestv1.MoveRequest{From: from, To: to})
	return err
}

// ChmodFile sets the permission bits with setuid, setgid and sticky.
func (c *Client) ChmodFile(ctx context.Context, path string, mode uint32) error {
	_, err := ask[guestv1.ChmodResponse](ctx, c, guestv1connect.FileServiceChmodProcedure,
		&guestv1.ChmodRequest{Path: path, Mode: mode})
	return err
}

// RemoveFile removes a file or an empty directory, with recursive a whole tree.
func (c *Client) RemoveFile(ctx context.Context, path string, recursive bool) error {
	_, err := ask[guestv1.RemoveResponse](ctx, c, guestv1connect.FileServiceRemoveProcedure,
		&guestv1.RemoveRequest{Path: path, Recursive: recursive})
	return err
}

// ReadFile opens a file; close the reader. ctx is the life of the reader. CodeNotFound;
// CodeInvalid: a directory or another thing that has no content. A read that is cut short ends
// with an error, never with io.EOF.
func (c *Client) ReadFile(ctx context.Context, path string) (stacyvm.FileInfo, io.ReadCloser, error) {
	ctx, cancel, stall := watch(ctx)
	ctx, raw := withRaw(ctx)
	request, most, release := bulk(&guestv1.ReadRequest{Path: path})
	stream, err := receive[guestv1.ReadResponse](ctx, c, guestv1connect.FileServiceReadProcedure, request)
	if err != nil {
		defer release()
		defer cancel()
		return stacyvm.FileInfo{}, nil, failure(ctx, err)
	}
	r := &reader{
		ctx:     ctx,
		cancel:  cancel,
		release: release,
		stall:   stall,
		stream:  stream,
		raw:     raw,
		shape:   bytesField(2),
		data:    func() []byte { return stream.Msg().GetData() },
		most:    most,
	}
	if !r.receive() {
		err = failure(ctx, stream.Err())
		if err == nil {
			err = cut()
		}
	} else if stream.Msg().GetInfo() == nil {
		err = nonsense("a file did not begin with its info")
	}
	if err != nil {
		_ = r.Close()
		return stacyvm.FileInfo{}, nil, err
	}
	return file(stream.Msg().GetInfo()), r, nil
}

// reader is the bytes of a stream.
type reader struct {
	ctx     context.Context
	cancel  context.CancelFunc
	release func() // what the stream may hold in memory
	stall   watchdog
	stream  interface {
		Receive() bool
		Err() error
		Close() error
	}
	raw   *raw
	shape shape
	data  func() []byte // of the message that was received
	most  int           // bytes of a data frame
	rest  []byte
}

func (r *reader) receive() (more bool) {
	r.stall.during(func() { more = r.stream.Receive() })
	return more
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for len(r.rest) == 0 {
		if n, err := r.readRaw(p); n > 0 || err != nil {
			return n, err
		}
		if !r.receive() {
			if err := failure(r.ctx, r.stream.Err()); err != nil {
				return 0, err
			}
			return 0, io.EOF
		}
		r.rest = r.data()
		if len(r.rest) > r.most {
			r.rest = nil
			r.cancel()
			return 0, nonsense("a data frame is too large")
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// readRaw reads some of the next message's data; 0 without an error: that has none, or is of
// another shape.
func (r *reader) readRaw(p []byte) (n int, err error) {
	r.stall.during(func() {
		usual := true
		if r.raw.left == 0 {
			usual, err = r.raw.next(r.shape)
		}
		switch {
		case err != nil || !usual:
		case r.raw.left > r.most:
			err = nonsense("a data frame is too large")
		case r.raw.left > 0:
			n, err = r.raw.data(p)
		}
	})
	return n, failure(r.ctx, err)
}

// Close ends the reading.
func (r *reader) Close() error {
	r.cancel()
	_ = r.stream.Close() // only read
	r.release()
	return nil
}

// WriteFile puts a file in place, whole or not at all, and makes its parents. mode 0 keeps the
// mode of a file that is there and is 0644 otherwise; user owns a new file, empty is the image's.
// CodeInvalid: something else than a file is there, or body failed; CodeStorageFull. An error of
// body that is a *stacyvm.Error is returned as it is.
func (c *Client) WriteFile(
	ctx context.Context,
	path string,
	mode uint32,
	user string,
	body io.Reader,
) (stacyvm.FileInfo, error) {
	write := callerOf[guestv1.WriteRequest, guestv1.WriteResponse](c, guestv1connect.FileServiceWriteProcedure)
	header := &guestv1.WriteHeader{Path: path, Mode: mode, User: user}
	answer, err := upload(ctx, write, &guestv1.WriteRequest{Part: &guestv1.WriteRequest_Header{Header: header}}, body,
		func(data []byte) *guestv1.WriteRequest {
			return &guestv1.WriteRequest{Part: &guestv1.WriteRequest_Data{Data: data}}
		})
	if err != nil {
		return stacyvm.FileInfo{}, err
	}
	return file(answer.GetInfo()), nil
}

// upload sends a header and then body in parts, and gives the answer. An error of body that is a
// *stacyvm.Error is returned as it is.
func upload[Q, A any](
	ctx context.Context,
	caller *connect.Client[Q, A],
	header *Q,
	body io.Reader,
	part func(data []byte) *Q,
) (*A, error) {
	ctx, cancel, stall := watch(ctx)
	defer cancel() // cuts what did not come to its end, and with that undoes it
	stream := caller.CallClientStream(ctx)
	err := stream.Send(header)
	if err == nil {
		err = send(stream, stall, body, part)
	}
	if bad := (*bodyError)(nil); errors.As(err, &bad) {
		return nil, bad.asOwn()
	}
	if err != nil && !errors.Is(err, io.EOF) { // at io.EOF the reason is in the answer
		return nil, failure(ctx, err)
	}
	var answer *connect.Response[A]
	stall.during(func() { answer, err = stream.CloseAndReceive() })
	if err != nil {
		return nil, failure(ctx, err)
	}
	return answer.Msg, nil
}

// firstData is the size of an upload's first frame, in bytes. What comes slowly, or not at all,
// holds no more.
const firstData = 4 << 10

// send copies body into the stream.
func send[Q, A any](
	stream *connect.ClientStreamForClient[Q, A],
	stall watchdog,
	body io.Reader,
	part func(data []byte) *Q,
) error {
	buffer, size := make([]byte, firstData), frameSize{}
	defer size.release()
	for {
		n, err := fill(body, buffer)
		if err != nil && err != io.EOF { //nolint:errorlint // a failure may wrap it
			return &bodyError{err} // the caller's context may have ended with it, and a frame more helps nobody
		}
		if n > 0 {
			var failed error
			stall.during(func() { failed = stream.Send(part(buffer[:n])) })
			if failed != nil {
				return failed
			}
		}
		if n == len(buffer) && size.grow(&n) { // it comes as fast as it is taken
			buffer = make([]byte, n)
		}
		if err != nil {
			return nil
		}
	}
}

// fill reads until the buffer is full or an error comes. io.ReadFull is of no use here: its error
// for an end before that is the one of a request's body that was cut.
func fill(from io.Reader, buffer []byte) (n int, err error) {
	for n < len(buffer) && err == nil {
		var more int
		more, err = from.Read(buffer[n:])
		n += more
	}
	return n, err
}

// bodyError is a failure to read what was to be written.
type bodyError struct{ error }

func (e *bodyError) asOwn() error {
	if _, ok := errors.AsType[*stacyvm.Error](e.error); ok {
		return e.error
	}
	return stacyvm.Wrap(stacyvm.CodeInvalid, e.error, "the content could not be read to its end")
}
