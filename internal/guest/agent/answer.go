package agent

import (
	"context"
	"encoding/binary"
	"io"
	"net/http"
	"sync/atomic"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/stacyvm/stacyvm/internal/guest"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// answer writes a request's answer. Each system call of this program is slow and wakes the host, so
// that a message goes out with what stands around it, and the last one with the answer's end.
type answer struct {
	http.ResponseWriter
	conn *guest.Gather // nil: the connection has other requests, too
	body io.Reader     // of the request
	raw  bool          // messages are those of a Connect stream, as protobuf
	last atomic.Bool
}

type answerKey struct{}

func newAnswer(w http.ResponseWriter, r *http.Request) *answer {
	a := &answer{ResponseWriter: w, body: r.Body, raw: r.Header.Get("Content-Type") == "application/connect+proto"}
	// Only streams: their body is always one of chunks.
	if conn, ok := r.Context().Value(connectionKey{}).(*guest.Gather); ok && a.raw && r.ProtoMajor == 1 {
		a.conn = conn
	}
	return a
}

// rawAnswer gives the answer to the request that ctx is of, when its messages may be written as
// they are; nil: they may not.
func rawAnswer(ctx context.Context) *answer {
	if a, ok := ctx.Value(answerKey{}).(*answer); ok && a.raw {
		return a
	}
	return nil
}

// sendsLast says that a handler is about to send its last message: it goes out with the end of the
// answer, which follows at once.
func sendsLast(ctx context.Context) {
	if a, ok := ctx.Value(answerKey{}).(*answer); ok {
		a.last.Store(true)
	}
}

// Write implements http.ResponseWriter.
func (a *answer) Write(data []byte) (int, error) {
	if a.conn != nil {
		a.conn.Hold()
	}
	return a.ResponseWriter.Write(data)
}

// Flush implements http.Flusher.
func (a *answer) Flush() {
	if a.last.Load() {
		return
	}
	a.ResponseWriter.(http.Flusher).Flush()
	a.release()
}

// release lets the connection send what it holds. Its errors show at the next write.
func (a *answer) release() {
	if a.conn != nil {
		_ = a.conn.Release()
	}
}

// rest is the content that the request's messages bring which connect has not read. Large pieces are
// for those that have a connection for themselves, which are few.
func (a *answer) rest() *rawBody {
	if a.conn != nil {
		return &rawBody{r: a.body, most: guest.LargeFrame}
	}
	return &rawBody{r: a.body, most: frameSize}
}

// Unwrap serves http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

// headroom is the room before a frame's data for what stands around them, in bytes.
const headroom = 64

// frame is the data of one message, and room before them: they are not copied any more.
type frame struct{ room []byte }

func newFrame(size int) *frame { return &frame{make([]byte, headroom+size)} }

// data is where the frame's data belong.
func (f *frame) data() []byte { return f.room[headroom:] }

// send sends the first n bytes of the data as one message of a Connect stream; before is the
// message up to them. Something must have been sent before by connect itself.
func (a *answer) send(f *frame, before []byte, n int) error {
	var prefix [5]byte
	binary.BigEndian.PutUint32(prefix[1:], uint32(len(before)+n)) //nolint:gosec // of a frame
	start := headroom - len(before) - len(prefix)
	copy(f.room[start:], prefix[:])
	copy(f.room[start+len(prefix):], before)
	if _, err := a.Write(f.room[start : headroom+n]); err != nil {
		return err
	}
	a.Flush()
	return nil
}

// beforeBytes is a message up to the bytes of its last field, of which there are n.
func beforeBytes(before []byte, field protowire.Number, n int) []byte {
	before = protowire.AppendTag(before, field, protowire.BytesType)
	return protowire.AppendVarint(before, uint64(n)) //nolint:gosec // a length
}

// beforeOutput is a ProcessEvent with n bytes of data up to them.
func beforeOutput(stream guestv1.Stream, offset uint64, n int) []byte {
	inner := protowire.AppendTag(make([]byte, 0, headroom), 1, protowire.VarintType)
	inner = protowire.AppendVarint(inner, uint64(stream)) //nolint:gosec // 1 or 2
	inner = protowire.AppendVarint(protowire.AppendTag(inner, 2, protowire.VarintType), offset)
	inner = beforeBytes(inner, 3, n)
	return append(beforeBytes(make([]byte, 0, headroom), 2, len(inner)+n), inner...)
}
