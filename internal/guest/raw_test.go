package guest

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/proto"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// framed is a message as Connect does.
func framed(t testing.TB, message proto.Message) []byte {
	t.Helper()
	wire, err := proto.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(wire))), wire...)
}

// FuzzRaw gives a guest's bytes to the reading of data past connect: what is taken for data means
// the same to protobuf, and whatever else comes is left to connect, whole.
func FuzzRaw(f *testing.F) {
	part := func(data string) *guestv1.ReadResponse {
		return &guestv1.ReadResponse{Part: &guestv1.ReadResponse_Data{Data: []byte(data)}}
	}
	f.Add(append(framed(f, part("some")), framed(f, part("more"))...), true)
	f.Add(append(framed(f, part("")), framed(f, &guestv1.ReadResponse{})...), true)
	f.Add(framed(f, &guestv1.PackResponse{Data: []byte("packed")}), true)
	f.Add(append(framed(f, data(out, 5, "text")), framed(f, keepalive())...), false)
	f.Add(append(framed(f, gap(out, 5, 1)), framed(f, data(errs, 1<<63, ""))...), false)
	f.Add([]byte("\x00\x00\x00\x00\x06\x12\x04\x08\x01\x1a\x7f"), false)
	f.Add([]byte("\x02\x00\x00\x00\x02{}"), false)
	f.Fuzz(func(t *testing.T, wire []byte, file bool) {
		r := &raw{ReadCloser: io.NopCloser(iotest.OneByteReader(bytes.NewReader(wire)))}
		for at := 0; ; {
			var p piece
			is := p.shape
			if file {
				is = bytesField(2)
			}
			usual, err := r.next(is)
			if err != nil {
				if len(wire)-at >= 5+int(binary.BigEndian.Uint32(wire[at+1:])) {
					t.Fatalf("a whole message at %d: %v", at, err)
				}
				return
			}
			if !usual {
				rest, err := io.ReadAll(r)
				if err != nil || !bytes.Equal(rest, wire[at:]) {
					t.Fatalf("%q is left at %d of %q, %v", rest, at, wire, err)
				}
				return
			}
			size := int(binary.BigEndian.Uint32(wire[at+1:]))
			got := make([]byte, r.left)
			for n := 0; n < len(got); {
				some, err := r.data(got[n:])
				if err != nil {
					if at+5+size <= len(wire) {
						t.Fatalf("a whole message at %d: %v", at, err)
					}
					return
				}
				n += some
			}
			checkRaw(t, wire[at+5:at+5+size], file, p, got)
			at += 5 + size
		}
	})
}

// checkRaw compares what was read of a message with what protobuf reads.
func checkRaw(t *testing.T, message []byte, file bool, p piece, got []byte) {
	t.Helper()
	var want []byte
	if file {
		var answer guestv1.ReadResponse
		if err := (codec{}).Unmarshal(message, &answer); err != nil || answer.GetInfo() != nil {
			t.Fatalf("%q is no data: %v", message, err)
		}
		want = answer.GetData()
	} else {
		var event guestv1.ProcessEvent
		if err := (codec{}).Unmarshal(message, &event); err != nil || event.GetData() == nil {
			t.Fatalf("%q is no data: %v", message, err)
		}
		want = event.GetData().GetData()
		if (piece{event.GetData().GetStream(), event.GetData().GetOffset()}) != p {
			t.Fatalf("%q is of %+v", message, p)
		}
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("%q, not %q", got, want)
	}
}

// TestRawReadsData: connect does not see the messages that nearly all bytes come in.
func TestRawReadsData(t *testing.T) {
	part := &guestv1.ReadResponse{Part: &guestv1.ReadResponse_Data{Data: []byte("some")}}
	for _, message := range []proto.Message{part, &guestv1.PackResponse{Data: []byte("some")}, data(out, 1<<40, "some")} {
		is := bytesField(message.ProtoReflect().Descriptor().Fields().ByName("data").Number())
		if _, ok := message.(*guestv1.ProcessEvent); ok {
			is = new(piece).shape
		}
		r := &raw{ReadCloser: io.NopCloser(bytes.NewReader(framed(t, message)))}
		if usual, err := r.next(is); !usual || err != nil || r.left != len("some") {
			t.Errorf("%v: %v, %d bytes, %v", message, usual, r.left, err)
			continue
		}
		got := make([]byte, r.left)
		if n, err := r.data(got); err != nil || string(got[:n]) != "some" {
			t.Errorf("%v: %q, %v", message, got[:n], err)
		}
	}
}
