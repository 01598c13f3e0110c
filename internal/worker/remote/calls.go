package remote

import (
	"context"
	"net/http"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
	workerv1 "github.com/stacyvm/stacyvm/proto/worker/v1"
)

// pageBytes is when a page of an inventory is full.
const pageBytes = 256 << 10

// calls implements the worker's own service.
type calls struct{ *server }

// Create implements the service.
func (c calls) Create(
	ctx context.Context,
	stream *connect.BidiStream[workerv1.CreateRequest, workerv1.CreateResponse],
) error {
	taken := &workerv1.CreateResponse{Taken: true}
	return attended(
		ctx,
		c.server,
		stream,
		taken,
		func(ctx context.Context, q *workerv1.CreateRequest) (*workerv1.CreateResponse, error) {
			ref := refFromWire(q.GetRef())
			request, err := makingFromWire(q.GetMaking())
			if err != nil {
				return nil, stacyvm.Invalid("spec", "cannot be read")
			}
			if err := c.enter(ctx, ref); err != nil {
				return nil, err
			}
			if c.Draining != nil && c.Draining() {
				return nil, stacyvm.Errorf(
					stacyvm.CodeUnavailable,
					"the worker is draining: it takes no new sandboxes",
				)
			}
			created, err := c.Worker.Create(ctx, ref, request)
			return &workerv1.CreateResponse{Made: madeToWire(created)}, err
		},
	)
}

// Destroy implements the service.
func (c calls) Destroy(
	ctx context.Context,
	stream *connect.BidiStream[workerv1.DestroyRequest, workerv1.DestroyResponse],
) error {
	taken := &workerv1.DestroyResponse{Taken: true}
	return attended(
		ctx,
		c.server,
		stream,
		taken,
		func(ctx context.Context, q *workerv1.DestroyRequest) (*workerv1.DestroyResponse, error) {
			ref := refFromWire(q.GetRef())
			if err := c.enter(ctx, ref); err != nil {
				return nil, err
			}
			err := c.Worker.Destroy(ctx, ref)
			if err == nil {
				c.confirmed.forget(ref)
			}
			return &workerv1.DestroyResponse{}, err
		},
	)
}

// Expire implements the service.
func (c calls) Expire(
	ctx context.Context, q *connect.Request[workerv1.ExpireRequest],
) (*connect.Response[workerv1.ExpireResponse], error) {
	ref := refFromWire(q.Msg.GetRef())
	err := c.enter(ctx, ref)
	if err == nil {
		err = worker.Expire(ctx, c.Worker, ref, time.UnixMicro(q.Msg.GetExpiresUs()).UTC())
	}
	if err != nil {
		return nil, c.failed(ctx, "Expire", err)
	}
	return connect.NewResponse(&workerv1.ExpireResponse{}), nil
}

// Inventory implements the service.
func (c calls) Inventory(
	ctx context.Context,
	_ *connect.Request[workerv1.InventoryRequest],
	stream *connect.ServerStream[workerv1.InventoryResponse],
) error {
	inventory, err := c.Worker.Inventory(ctx)
	if err != nil {
		return c.failed(ctx, "Inventory", err)
	}
	page := &workerv1.InventoryResponse{WorkerId: string(inventory.Worker)}
	size := 0
	for _, r := range inventory.Runtimes {
		line, err := runtimeToWire(r)
		if err != nil {
			return c.failed(ctx, "Inventory", err)
		}
		if size += proto.Size(line); size > pageBytes && len(page.Runtimes) > 0 {
			if err := stream.Send(page); err != nil {
				return err
			}
			page, size = &workerv1.InventoryResponse{WorkerId: page.GetWorkerId()}, proto.Size(line)
		}
		page.Runtimes = append(page.Runtimes, line)
	}
	page.Complete = true
	return stream.Send(page)
}

// Providers implements the service. A worker tells what it knows when its caller stops waiting for
// a probe: there must be time left for the answer.
func (c calls) Providers(
	ctx context.Context,
	_ *connect.Request[workerv1.ProvidersRequest],
) (*connect.Response[workerv1.ProvidersResponse], error) {
	if until, limited := ctx.Deadline(); limited {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, until.Add(-time.Until(until)/5))
		defer cancel()
	}
	providers, err := c.Worker.Providers(ctx)
	if err != nil {
		return nil, c.failed(ctx, "Providers", err)
	}
	answer := &workerv1.ProvidersResponse{}
	for _, p := range providers {
		answer.Providers = append(answer.Providers, providerToWire(p))
	}
	return connect.NewResponse(answer), nil
}

// Admit implements the service. A connection of any scope tells what there is to tell.
func (c calls) Admit(
	ctx context.Context,
	q *connect.Request[workerv1.AdmitRequest],
) (*connect.Response[workerv1.AdmitResponse], error) {
	ref := refFromWire(q.Msg.GetRef())
	err := c.enter(ctx, ref)
	if err == nil {
		_, err = c.Worker.Guest(ctx, ref, grants[0].opens)
	}
	if err != nil {
		return nil, c.failed(ctx, "Admit", err)
	}
	return connect.NewResponse(&workerv1.AdmitResponse{}), nil
}

// failed makes the answer of a method that failed, and keeps the cause in the log.
func (s *server) failed(ctx context.Context, method string, err error) error {
	if r, ok := ctx.Value(controlKey{}).(*control); ok {
		s.log(r.request, err)
	} else {
		s.Logger.DebugContext(ctx, "a call failed", "method", method, "error", err)
	}
	return wireError(err)
}

// control reaches a stream's request from inside its method.
type control struct {
	request  *http.Request
	response *http.ResponseController
}

type controlKey struct{}

func withControl(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := &control{request: r, response: http.NewResponseController(w)}
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), controlKey{}, c)))
	})
}

// timed is a request that says how long its caller waits.
type timed interface{ GetTimeoutUs() int64 }

// attended runs a call that its caller may end before it has an answer: by ending its side of the
// stream. The answer is sent when the call has really ended.
func attended[Q, A any, P interface {
	*Q
	timed
}](ctx context.Context, s *server, stream *connect.BidiStream[Q, A], taken *A, call func(context.Context, *Q) (*A, error)) error {
	question, err := stream.Receive()
	if err != nil {
		return err
	}
	if err := stream.Send(taken); err != nil {
		return err
	}
	within, cancel := context.WithCancel(ctx)
	defer cancel()
	if us := P(question).GetTimeoutUs(); us > 0 {
		within, cancel = context.WithTimeout(within, time.Duration(us)*time.Microsecond)
		defer cancel()
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = stream.Receive() // its end, or that of the connection
		cancel()
	}()
	answer, err := call(within, question)
	if c, ok := ctx.Value(controlKey{}).(*control); ok && c.response.SetReadDeadline(time.Unix(1, 0)) == nil {
		<-gone // otherwise it ends with the stream
	}
	if err != nil {
		return s.failed(ctx, stream.Spec().Procedure, err)
	}
	return stream.Send(answer)
}
