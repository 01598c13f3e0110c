package middleware

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"testing"
)

// FuzzFraming has net/http read what the framing follows, in pieces of any size: each request that
// net/http takes has a verdict, and one that is clear has one length.
func FuzzFraming(f *testing.F) {
	for _, seed := range []string{
		"GET / HTTP/1.1\r\nHost: x\r\n\r\nPOST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabcGET / HTTP/1.1\r\nHost: x\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3;a\r\nabc\r\n0\r\nT: 1\r\n\r\nGET / HTTP/1.1\nHost: x\n\n",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.0\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n\tchunked\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1, 1\r\n\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n00000000000000000000000003 \r\nabc\r\n0\r\n\r\n",
	} {
		f.Add([]byte(seed), uint8(7))
	}
	f.Fuzz(func(t *testing.T, data []byte, piece uint8) {
		var followed framing
		for rest := data; len(rest) > 0; {
			n := min(len(rest), int(piece)+1)
			followed.feed(rest[:n])
			rest = rest[n:]
		}
		source := bytes.NewReader(data)
		reader := bufio.NewReader(source)
		at := func() int { return len(data) - source.Len() - reader.Buffered() }
		for {
			begin := at()
			r, err := http.ReadRequest(reader)
			if err != nil || r.ProtoMajor != 1 { // the server takes no other
				return
			}
			head := bytes.ToLower(data[begin:at()])
			has := func(text string) bool { return bytes.Contains(head, []byte(text)) }
			chunks, length := has("\ntransfer-encoding:"), has("\ncontent-length:")
			unclear := chunks && (length || !r.ProtoAtLeast(1, 1)) || has("\n ") || has("\n\t")
			if clear := followed.next(); clear == unclear {
				t.Fatalf("clear is %v of %q", clear, head)
			}
			if unclear {
				return // refused, and closed
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
		}
	})
}
