package agent

import (
	"bytes"
	"encoding/binary"
	"testing"
	"testing/iotest"

	"google.golang.org/protobuf/proto"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// FuzzRawBody compares the content of an upload with what protobuf reads of its messages.
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
		if err != nil {
			return
		}
		var want []byte
		for len(wire) > 0 {
			size := int(binary.BigEndian.Uint32(wire[1:]))
			var request guestv1.WriteRequest
			if err := proto.Unmarshal(wire[5:5+size], &request); err != nil {
				t.Fatal(err)
			}
			want = append(want, request.GetData()...)
			wire = wire[5+size:]
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Fatalf("%q, not %q", got.Bytes(), want)
		}
	})
}
