package agent

import (
	"encoding/binary"
	"errors"
	"io"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// rawBody is the content that the rest of a Connect stream of WriteRequests brings. Its bytes are
// copied once, from the connection to a buffer.
type rawBody struct {
	r    io.Reader
	most int // bytes of a piece
	left int // bytes of the message that were not read yet
}

// ReadByte implements io.ByteReader within a message.
func (b *rawBody) ReadByte() (byte, error) {
	if b.left == 0 {
		return 0, io.ErrUnexpectedEOF
	}
	var one [1]byte
	_, err := io.ReadFull(b.r, one[:])
	b.left--
	return one[0], noEOF(err)
}

// WriteTo implements io.WriterTo.
func (b *rawBody) WriteTo(to io.Writer) (total int64, err error) {
	for {
		err := b.message()
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := b.data(to)
		if total += n; err != nil {
			return total, err
		}
	}
}

// message begins the next message; io.EOF: there is none.
func (b *rawBody) message() error {
	var prefix [5]byte
	if _, err := io.ReadFull(b.r, prefix[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(prefix[1:])
	if prefix[0] != 0 || size > largestMessage {
		return wrong("a message cannot be read")
	}
	b.left = int(size)
	return nil
}

// dataTag stands before the data of a WriteRequest.
var dataTag = byte(protowire.EncodeTag(2, protowire.BytesType))

// data passes the data of a message on.
func (b *rawBody) data(to io.Writer) (total int64, err error) {
	if b.left == 0 {
		return 0, nil
	}
	tag, err := b.ReadByte()
	if err != nil {
		return 0, err
	}
	if tag != dataTag {
		return b.other(to, []byte{tag})
	}
	size, err := binary.ReadUvarint(b)
	if err != nil {
		return 0, noEOF(err)
	}
	if size != uint64(b.left) { //nolint:gosec // not negative
		return b.other(to, binary.AppendUvarint([]byte{tag}, size)) // more than data, or wrong
	}
	f := frameFor(min(b.left, b.most))
	defer putFrame(f)
	for b.left > 0 {
		n, err := io.ReadFull(b.r, f.data()[:min(b.left, len(f.data()))])
		if err != nil {
			return total, noEOF(err)
		}
		b.left -= n
		written, err := to.Write(f.data()[:n])
		if total += int64(written); err != nil {
			return total, err
		}
	}
	return total, nil
}

// other reads a message of another shape, of which the beginning was read.
func (b *rawBody) other(to io.Writer, begun []byte) (int64, error) {
	message := make([]byte, len(begun)+b.left)
	copy(message, begun)
	if _, err := io.ReadFull(b.r, message[len(begun):]); err != nil {
		return 0, noEOF(err)
	}
	b.left = 0
	var request guestv1.WriteRequest
	if err := proto.Unmarshal(message, &request); err != nil {
		return 0, wrong("a message cannot be read")
	}
	n, err := to.Write(request.GetData())
	return int64(n), err
}

// noEOF: within a message the end comes too early.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
