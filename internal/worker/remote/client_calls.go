package remote

import (
	"context"
	"errors"
	"io"
	"time"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
	workerv1 "github.com/stacyvm/stacyvm/proto/worker/v1"
)

// undoWithin is how long a call whose caller stopped waiting may take to undo what it has begun. After it, the worker's
// inventory tells what is left.
const undoWithin = 20 * time.Second

// Create implements worker.Worker.
func (c *Client) Create(ctx context.Context, ref stacyvm.Ref, request worker.CreateRequest) (worker.Created, error) {
	making, err := makingToWire(request)
	if err != nil {
		return worker.Created{}, stacyvm.Wrap(stacyvm.CodeInvalid, err, "the specification cannot be sent")
	}
	question := &workerv1.CreateRequest{Ref: refToWire(ref), Making: making, TimeoutUs: left(ctx)}
	answer, err := attend(ctx, c.rpc.Create, question)
	if err != nil {
		return worker.Created{}, err
	}
	return madeFromWire(answer.GetMade()), nil
}

// Destroy implements worker.Worker.
func (c *Client) Destroy(ctx context.Context, ref stacyvm.Ref) error {
	_, err := attend(ctx, c.rpc.Destroy, &workerv1.DestroyRequest{Ref: refToWire(ref), TimeoutUs: left(ctx)})
	return err
}

// Inventory implements worker.Worker: a list without its end is an error.
func (c *Client) Inventory(ctx context.Context) (worker.Inventory, error) {
	stream, err := c.rpc.Inventory(ctx, connect.NewRequest(&workerv1.InventoryRequest{}))
	if err != nil {
		return worker.Inventory{}, failure(ctx, err)
	}
	defer stream.Close()
	inventory := worker.Inventory{Worker: c.config.ID}
	for stream.Receive() {
		page := stream.Msg()
		if page.GetWorkerId() != string(c.config.ID) {
			return worker.Inventory{}, stacyvm.Errorf(stacyvm.CodeUnavailable, "another worker answers")
		}
		for _, sent := range page.GetRuntimes() {
			r, err := runtimeFromWire(sent)
			if err != nil {
				return worker.Inventory{}, stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the worker's inventory cannot be read")
			}
			inventory.Runtimes = append(inventory.Runtimes, r)
		}
		if page.GetComplete() {
			return inventory, nil
		}
	}
	err = stream.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return worker.Inventory{}, failure(ctx, err)
}

// Providers implements worker.Worker.
func (c *Client) Providers(ctx context.Context) ([]worker.Provider, error) {
	answer, err := c.rpc.Providers(ctx, connect.NewRequest(&workerv1.ProvidersRequest{}))
	if err != nil {
		return nil, failure(ctx, err)
	}
	providers := make([]worker.Provider, 0, len(answer.Msg.GetProviders()))
	for _, p := range answer.Msg.GetProviders() {
		providers = append(providers, providerFromWire(p))
	}
	return providers, nil
}

// admit asks whether a sandbox's guest can be reached.
func (c *Client) admit(ctx context.Context, ref stacyvm.Ref) error {
	_, err := c.rpc.Admit(ctx, connect.NewRequest(&workerv1.AdmitRequest{Ref: refToWire(ref)}))
	return failure(ctx, err)
}

// left is how long a context still runs, in microseconds; 0: without a limit.
func left(ctx context.Context) int64 {
	until, limited := ctx.Deadline()
	if !limited {
		return 0
	}
	return max(1, time.Until(until).Microseconds())
}

// attend makes a call that is undone when ctx ends: it tells the worker, and waits for its answer, as a local call returns when
// nothing of it goes on.
func attend[Q, A any](ctx context.Context, open func(context.Context) *connect.BidiStreamForClient[Q, A], question *Q) (*A, error) {
	if ctx.Err() != nil {
		return nil, ended(ctx)
	}
	life, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	stream := open(life)
	defer stream.CloseResponse()
	defer stream.CloseRequest()
	unsent := context.AfterFunc(ctx, cut)
	err := stream.Send(question)
	if !unsent() {
		return nil, ended(ctx)
	}
	if err != nil && !errors.Is(err, io.EOF) { // at io.EOF the reason is in the answer
		return nil, failure(ctx, err)
	}
	tell := context.AfterFunc(ctx, func() {
		_ = stream.CloseRequest() // fails only when the call has ended
		limit := time.AfterFunc(undoWithin, cut)
		context.AfterFunc(life, func() { limit.Stop() })
	})
	defer tell()
	answer, err := stream.Receive()
	if err == nil {
		return answer, nil
	}
	err = failure(life, err)
	if code := stacyvm.CodeOf(err); ctx.Err() != nil && (code == stacyvm.CodeUnavailable || code == stacyvm.CodeTimeout) {
		err = ended(ctx)
	}
	return nil, err
}
