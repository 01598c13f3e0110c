package remote

import (
	"context"
	"net"
	"net/http"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

type refKey struct{}

// port reads the ref in the path and hands the rest to the port service.
func (s *server) port(next http.Handler) http.Handler {
	return withControl(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ref, err := refOf(r)
		if err != nil {
			s.refuse(w, r, err)
			return
		}
		inner := r.Clone(context.WithValue(r.Context(), refKey{}, ref))
		inner.URL.Path, inner.URL.RawPath = methodOf(r.URL.Path), ""
		next.ServeHTTP(w, inner)
	}))
}

// ports implements the guest's port service with the worker's own way to a port, so that the
// client of guests serves for both.
type ports struct{ *server }

// Connect implements the service. It returns when both directions have ended, or the caller has
// gone.
func (p ports) Connect(ctx context.Context, stream *guest.PortStream) error {
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	conn, err := p.dial(ctx, first.GetPort())
	if err != nil {
		mark(stream.ResponseHeader(), err)
		return p.failed(ctx, stream.Spec().Procedure, err)
	}
	return guest.ServePort(ctx, stream, conn, first.GetData(), func(err error) error {
		return wireError(
			stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the program in the sandbox broke the connection off"),
		)
	})
}

func (p ports) dial(ctx context.Context, port uint32) (net.Conn, error) {
	ref, _ := ctx.Value(refKey{}).(stacyvm.Ref)
	if port == 0 || port > 65535 {
		return nil, stacyvm.Invalid("port", "must be between 1 and 65535")
	}
	if err := p.enter(ctx, ref); err != nil {
		return nil, err
	}
	return p.Worker.DialPort(ctx, ref, uint16(port))
}
