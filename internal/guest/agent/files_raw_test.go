package agent

import (
	"bytes"
	"encoding/binary"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/proto"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// protobufContent is the content of an upload as protobuf reads its messages; false: it is cut or wrong.
func protobufContent(wire []byte) (content []byte, ok bool) {
	for len(wire) > 0 {
		if len(wire) < 5 || wire[0] != 0 {
			return nil, false
		}
		size := int64(binary.BigEndian.Uint32(wire[1:]))
		if wire = wire[5:]; size > min(largestMessage, int64(len(wire))) {
			return nil, false
		}
		var request guestv1.WriteRequest
		if proto.Unmarshal(wire[:size], &request) != nil {
			return nil, false
		}
		content = append(content, request.GetData()...)
		wire = wire[size:]
	}
	return content, true
}

// FuzzRawBody compares the content of an upload, and whether it is refused, with what protobuf reads
// of its messages.
func FuzzRawBody(f *testing.F) {
	part := func(data string) []byte {
		wire, err := proto.Marshal(&guestv1.WriteRequest{Part: &guestv1.WriteRequest_Data{Data: []byte(data)}})
		if err != nil {
			f.Fatal(err)
		}
		return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(wire))), wire...)
	}
	f.Add(append(part("some"), part("more")...))
	f.Add(append(part(""), "\x00\x00\x00\x00\x00"...))
	f.Add(part("cut")[:7])
	f.Add([]byte("\x00\x00\x00\x00\x06\x18\x01\x12\x02ab")) // a later host's field
	f.Add([]byte("\x00\x00\x00\x00\x06\x12\x02ab\x18\x01")) // likewise
	f.Add([]byte("\x01\x00\x00\x00\x02ab"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		var got bytes.Buffer
		n, err := (&rawBody{most: 1 << 10, r: iotest.HalfReader(bytes.NewReader(wire))}).WriteTo(&got)
		if n != int64(got.Len()) {
			t.Fatalf("%d bytes, not %d", got.Len(), n)
		}
		want, ok := protobufContent(wire)
		if ok != (err == nil) {
			t.Fatalf("%x: %v, protobuf reads it: %v", wire, err, ok)
		}
		if !ok {
			return
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Fatalf("%q, not %q", got.Bytes(), want)
		}
	})
}
