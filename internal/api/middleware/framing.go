package middleware

import (
	"bytes"
	"context"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// net/http drops Content-Length from a request that also has Transfer-Encoding, and goes on. A
// proxy that goes by the length sees another end of the body, and what it takes for a body is a
// request to us. The header that was dropped can be seen on the connection alone, so that what
// arrives there is followed from request to request.

// Framing follows the requests of each connection of a listener, for Framed to ask. The
// connections must carry plain HTTP/1.
func Framing(listener net.Listener) net.Listener { return framingListener{listener} }

type framingListener struct{ net.Listener }

func (l framingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &framedConn{Conn: conn}, nil
}

type framedKey struct{}

// FramingContext is the ConnContext of a server whose listener is one of Framing.
func FramingContext(ctx context.Context, conn net.Conn) context.Context {
	return context.WithValue(ctx, framedKey{}, conn)
}

// Framed refuses a request whose length is told in two ways, and closes its connection. Where the
// connection cannot be followed, as under TLS, it is closed after each request with
// Transfer-Encoding, so that nothing that was hidden in one is taken for the next.
func Framed(fail Fail) Middleware {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, followed := r.Context().Value(framedKey{}).(*framedConn)
			switch {
			case r.ProtoMajor != 1:
			case followed && !conn.clear():
				w.Header().Set("Connection", "close")
				fail(
					w,
					r,
					stacyvm.Invalid(
						"Content-Length",
						"tells the body's end in another way than Transfer-Encoding; send one of them",
					),
				)
				return
			case !followed && len(r.TransferEncoding) > 0:
				w.Header().Set("Connection", "close")
			}
			next.ServeHTTP(w, r)
		})
	}
}

// framedConn follows what its reader is given.
type framedConn struct {
	net.Conn
	mu      sync.Mutex // net/http reads ahead while a handler runs
	framing framing
}

// Read implements net.Conn.
func (c *framedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.framing.feed(p[:n])
	return n, err
}

// clear reports whether the next request that was not asked about has one length.
func (c *framedConn) clear() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.framing.next()
}

// stage is what of a request comes next on a connection.
type stage int

const (
	stageRequest stage = iota
	stageHeader
	stageBody
	stageChunkSize
	stageChunk
	stageTrailer
	stageLost // it is no HTTP/1 that net/http would take, or no HTTP any more
)

// maxLine is longer than any line that a server with MaxHeaderBytes of up to 1 MiB takes.
const maxLine = 1<<20 + 8<<10

// framing finds where requests begin and end, by net/http's rules.
type framing struct {
	stage    stage
	line     []byte // of the line that has not ended
	left     uint64 // of the body or chunk
	head     head
	verdicts []bool // of requests that were not asked about: whether they have one length
}

// head is what of a request's header tells its length.
type head struct {
	old     bool   // HTTP/1.0, which knows no Transfer-Encoding
	length  string // of the body, as it was written
	chunked bool
	folded  bool // a line goes on in the next one: others may read them as two
}

// next gives the oldest verdict; there is none when the framing was lost.
func (f *framing) next() bool {
	if len(f.verdicts) == 0 {
		return false
	}
	first := f.verdicts[0]
	f.verdicts = f.verdicts[1:]
	return first
}

// feed goes on with what was read.
func (f *framing) feed(p []byte) {
	for len(p) > 0 {
		switch f.stage {
		case stageLost:
			return
		case stageBody, stageChunk:
			n := min(f.left, uint64(len(p)))
			f.left -= n
			p = p[n:]
			if f.left == 0 {
				f.stage = map[stage]stage{stageBody: stageRequest, stageChunk: stageChunkSize}[f.stage]
			}
		default:
			line, rest, whole := bytes.Cut(p, []byte("\n"))
			f.line = append(f.line, line...)
			p = rest
			if len(f.line) > maxLine {
				f.lose()
			} else if whole {
				f.take(strings.TrimSuffix(string(f.line), "\r"))
				f.line = f.line[:0]
			}
		}
	}
}

func (f *framing) lose() { f.stage, f.line = stageLost, nil }

// take reads one line.
func (f *framing) take(line string) {
	switch f.stage {
	case stageRequest:
		major, minor, ok := http.ParseHTTPVersion(line[strings.LastIndexByte(line, ' ')+1:])
		if !ok || major != 1 {
			f.lose()
			return
		}
		f.stage, f.head = stageHeader, head{old: minor == 0}
	case stageHeader:
		f.header(line)
	case stageChunkSize:
		size, _, _ := strings.Cut(line, ";")
		n, err := strconv.ParseUint(strings.Trim(size, " \t"), 16, 64)
		switch {
		case err != nil || n > math.MaxInt64:
			f.lose()
		case n == 0:
			f.stage = stageTrailer
		default:
			f.stage, f.left = stageChunk, n+2 // the line's end behind it
		}
	case stageTrailer:
		if line == "" {
			f.stage = stageRequest
		}
	default: // nothing else is read by lines
	}
}

func (f *framing) header(line string) {
	if line == "" {
		f.begin()
		return
	}
	f.head.folded = f.head.folded || line[0] == ' ' || line[0] == '\t'
	name, value, _ := strings.Cut(line, ":")
	value = strings.Trim(value, " \t")
	switch {
	case strings.EqualFold(name, "Transfer-Encoding"):
		f.head.chunked = true // net/http refuses every other
	case !strings.EqualFold(name, "Content-Length"):
	case f.head.length != "" && f.head.length != value: // net/http refuses this one too
		f.lose()
	default:
		f.head.length = value
	}
}

// begin is the end of a header.
func (f *framing) begin() {
	h := f.head
	f.verdicts = append(f.verdicts, !h.folded && (!h.chunked || !h.old && h.length == ""))
	f.stage, f.left = stageRequest, 0
	switch {
	case h.chunked:
		f.stage = stageChunkSize
	case h.length != "":
		n, err := strconv.ParseUint(h.length, 10, 63)
		if err != nil {
			f.lose()
		} else if n > 0 {
			f.stage, f.left = stageBody, n
		}
	}
}
