package remote

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	guestPrefix = "/guest/"
	portPrefix  = "/port/"
)

// guest passes a request on to a sandbox's guest program and its answer back, both as they come.
func (s *server) guest(w http.ResponseWriter, r *http.Request) {
	conn, err := s.reach(r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	proxy := httputil.ReverseProxy{
		Rewrite: func(p *httputil.ProxyRequest) {
			p.Out.URL, p.Out.Host = &url.URL{Path: methodOf(p.In.URL.Path)}, "" // see sender
			for _, private := range []string{"Authorization", workerHeader, requestHeader} {
				p.Out.Header.Del(private)
			}
		},
		Transport:     sender(conn),
		FlushInterval: -1, // at once
		BufferPool:    s.buffers,
		ErrorLog:      log.New(io.Discard, "", 0), // of streams that broke: both ends learn of it
		ModifyResponse: func(answer *http.Response) error {
			answer.Header.Del(failureHeader) // the worker's own word
			answer.Trailer.Del(failureHeader)
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			if _, own := errors.AsType[*stacyvm.Error](err); !own {
				err = stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the connection to the sandbox broke")
			}
			s.refuse(w, r, err)
		},
	}
	proxy.ServeHTTP(w, r)
}

// reach gives the connection that a request is for.
func (s *server) reach(r *http.Request) (conn guest.Conn, err error) {
	ref, err := refOf(r)
	if err != nil {
		return conn, err
	}
	identity, _ := r.Context().Value(identityKey{}).(auth.WorkerIdentity)
	scope, err := opened(identity, methodOf(r.URL.Path))
	if err != nil {
		return conn, err
	}
	if err := s.enter(r.Context(), ref); err != nil {
		return conn, err
	}
	return s.Worker.Guest(r.Context(), ref, scope)
}

// refOf reads the ref in a path.
func refOf(r *http.Request) (stacyvm.Ref, error) {
	incarnation, first := strconv.ParseInt(r.PathValue("incarnation"), 10, 64)
	epoch, second := strconv.ParseInt(r.PathValue("epoch"), 10, 64)
	if first != nil || second != nil {
		return stacyvm.Ref{}, stacyvm.Invalid("fence", "must be two numbers")
	}
	return stacyvm.Ref{
		ID: stacyvm.SandboxID(r.PathValue("sandbox")), Fence: stacyvm.Fence{Incarnation: incarnation, Epoch: epoch},
	}, nil
}

// sender sends requests over a guest's connection.
type sender guest.Conn

// RoundTrip implements http.RoundTripper.
func (s sender) RoundTrip(r *http.Request) (*http.Response, error) {
	base, err := url.Parse(s.URL)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(r.Context())
	sent := r.WithContext(ctx)
	sent.URL = &url.URL{Scheme: base.Scheme, Host: base.Host, Path: base.Path + r.URL.Path}
	answer, err := s.HTTP.Do(sent)
	if err != nil {
		cancel()
		return nil, err
	}
	answer.Body = answerBody{answer.Body, cancel}
	return answer, nil
}

// answerBody ends the request with its answer: a guest may have said all that it has to say while
// the caller still sends, and a body's Close waits for the sender.
type answerBody struct {
	io.ReadCloser
	cancel context.CancelFunc
}

// Close implements io.Closer.
func (b answerBody) Close() error {
	b.cancel()
	return b.ReadCloser.Close()
}

// buffers is a pool of copy buffers.
type buffers struct{ pool sync.Pool }

const copyBytes = 64 << 10

func newBuffers() *buffers {
	return &buffers{sync.Pool{New: func() any { return new([copyBytes]byte) }}}
}

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte { return b.pool.Get().(*[copyBytes]byte)[:] }

// Put implements httputil.BufferPool.
func (b *buffers) Put(buffer []byte) { b.pool.Put((*[copyBytes]byte)(buffer)) }
