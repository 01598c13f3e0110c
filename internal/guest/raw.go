package guest

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"

	"google.golang.org/protobuf/encoding/protowire"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// raw is an answer's body, a Connect stream, of which the data can be read past connect: those are
// nearly all bytes, and connect reads each message into memory and copies it there. Whatever else
// comes is left to connect.
type raw struct {
	io.ReadCloser
	kept  [headroom]byte
	ahead []byte // was read and not given yet, a part of kept
	left  int    // bytes of the data that were not read yet
}

type rawKey struct{}

// withRaw has the answer to a request with this context read through the raw body.
func withRaw(ctx context.Context) (context.Context, *raw) {
	r := new(raw)
	return context.WithValue(ctx, rawKey{}, r), r
}

// rawDoer gives answers to those who asked for their bodies.
type rawDoer struct{ Doer }

// Do implements Doer.
func (d rawDoer) Do(request *http.Request) (*http.Response, error) {
	answer, err := d.Doer.Do(request)
	if r, ok := request.Context().Value(rawKey{}).(*raw); ok && err == nil {
		r.ReadCloser = answer.Body
		answer.Body = r
	}
	return answer, err
}

// Read implements io.Reader.
func (r *raw) Read(p []byte) (int, error) {
	if len(r.ahead) > 0 {
		n := copy(p, r.ahead)
		r.ahead = r.ahead[n:]
		return n, nil
	}
	return r.ReadCloser.Read(p)
}

// shape reads the beginning of a message up to its data, which are its last n bytes. It gives how
// long the beginning is; 0: it is another message.
type shape func(message []byte, size int) (before, n int)

// next begins the data of the next message; false: it is another one, or there is none, and
// connect can read on.
func (r *raw) next(is shape) (bool, error) {
	if len(r.ahead) > 0 {
		return false, nil
	}
	const prefix = 5
	n, err := io.ReadFull(r, r.kept[:prefix])
	r.ahead = r.kept[:n]
	if err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return false, nil // connect says what that means
		}
		return false, err
	}
	size := int64(binary.BigEndian.Uint32(r.kept[1:prefix]))
	if r.kept[0] != 0 || size > maxMessage {
		return false, nil
	}
	n, err = io.ReadFull(r.ReadCloser, r.kept[prefix:min(int64(len(r.kept)), prefix+size)])
	r.ahead = r.kept[:prefix+n]
	if err != nil && size > 0 {
		return false, noEOF(err)
	}
	before, data := is(r.kept[prefix:prefix+n], int(size))
	if before == 0 {
		return false, nil
	}
	r.ahead, r.left = r.ahead[prefix+before:], data
	return true, nil
}

// data reads some of the data that next began, of which there are some left.
func (r *raw) data(p []byte) (int, error) {
	for {
		n, err := r.Read(p[:min(len(p), r.left)])
		r.left -= n
		if n > 0 {
			return n, nil
		}
		if err != nil {
			return 0, noEOF(err)
		}
	}
}

// noEOF: within a message the end comes too early.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// bytesField gives the shape of a message of nothing but bytes, in this field.
func bytesField(field protowire.Number) shape {
	return func(message []byte, size int) (before, n int) { return lastBytes(message, size, field) }
}

// lastBytes reads what stands before the bytes of a field that ends a message of so many bytes.
func lastBytes(message []byte, size int, field protowire.Number) (before, n int) {
	number, kind, tag := protowire.ConsumeTag(message)
	if tag < 0 || number != field || kind != protowire.BytesType {
		return 0, 0
	}
	length, digits := protowire.ConsumeVarint(message[tag:])
	if digits < 0 || length != uint64(size-tag-digits) { //nolint:gosec // compared with a size
		return 0, 0
	}
	return tag + digits, size - tag - digits
}

// piece is a ProcessEvent with data, without them.
type piece struct {
	stream guestv1.Stream
	offset uint64
}

// shape is the shape of such an event. It reads the fields before the data.
func (p *piece) shape(message []byte, size int) (before, n int) {
	at, size := lastBytes(message, size, 2)
	if at == 0 {
		return 0, 0
	}
	*p = piece{}
	for {
		number, kind, tag := protowire.ConsumeTag(message[at:])
		if tag >= 0 && number == 3 {
			before, n = lastBytes(message[at:], size, 3)
			if before > 0 {
				before += at
			}
			return before, n
		}
		if tag < 0 || kind != protowire.VarintType || number > 2 {
			return 0, 0
		}
		value, digits := protowire.ConsumeVarint(message[at+tag:])
		if digits < 0 {
			return 0, 0
		}
		if number == 1 {
			p.stream = guestv1.Stream(value) //nolint:gosec // cut as protobuf cuts it
		} else {
			p.offset = value
		}
		at += tag + digits
		size -= tag + digits
	}
}
