package remote

import (
	"context"
	"io"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
	workerv1 "github.com/stacyvm/stacyvm/proto/worker/v1"
)

// Create implements worker.Worker.
func (c *Client) Create(ctx context.Context, ref stacyvm.Ref, request worker.CreateRequest) (worker.Created, error) {
	making, err := makingToWire(request)
	switch {
	case err != nil:
		return worker.Created{}, stacyvm.Wrap(stacyvm.CodeInvalid, err, "the specification cannot be sent")
	case proto.Size(making) > maxMessage/2: // an inventory's line is longer
		return worker.Created{}, stacyvm.Errorf(
			stacyvm.CodeTooLarge,
			"the specification is over %d bytes",
			maxMessage/2,
		)
	}
	question := &workerv1.CreateRequest{Ref: refToWire(ref), Making: making, TimeoutUs: left(ctx)}
	answer, err := cancellable(ctx, c, c.rpc.Create, question)
	if err != nil {
		return worker.Created{}, err
	}
	return madeFromWire(answer.GetMade()), nil
}

// Destroy implements worker.Worker.
func (c *Client) Destroy(ctx context.Context, ref stacyvm.Ref) error {
	_, err := cancellable(ctx, c, c.rpc.Destroy, &workerv1.DestroyRequest{Ref: refToWire(ref), TimeoutUs: left(ctx)})
	return err
}

// Expire implements worker.Expirer.
func (c *Client) Expire(ctx context.Context, ref stacyvm.Ref, at time.Time) error {
	_, err := retryOnce(ctx, c, func(ctx context.Context) (*connect.Response[workerv1.ExpireResponse], error) {
		question := &workerv1.ExpireRequest{Ref: refToWire(ref), ExpiresUs: at.UnixMicro()}
		return c.rpc.Expire(ctx, connect.NewRequest(question))
	})
	return err
}

// Inventory implements worker.Worker: a list without its end is an error.
func (c *Client) Inventory(ctx context.Context) (worker.Inventory, error) {
	return retryOnce(ctx, c, c.inventory)
}

func (c *Client) inventory(ctx context.Context) (inventory worker.Inventory, err error) {
	stream, err := c.rpc.Inventory(ctx, connect.NewRequest(&workerv1.InventoryRequest{}))
	if err != nil {
		return inventory, err
	}
	defer stream.Close()
	inventory.Worker = c.config.ID
	for stream.Receive() {
		page := stream.Msg()
		if page.GetWorkerId() != string(c.config.ID) {
			return worker.Inventory{}, stacyvm.Errorf(stacyvm.CodeUnavailable, "another worker answers")
		}
		for _, sent := range page.GetRuntimes() {
			r, err := runtimeFromWire(sent)
			if err != nil {
				return worker.Inventory{}, stacyvm.Wrap(
					stacyvm.CodeUnavailable,
					err,
					"the worker's inventory cannot be read",
				)
			}
			inventory.Runtimes = append(inventory.Runtimes, r)
		}
		if page.GetComplete() {
			return inventory, nil
		}
	}
	if err = stream.Err(); err == nil {
		err = io.ErrUnexpectedEOF
	}
	return worker.Inventory{}, err
}

// Providers implements worker.Worker.
func (c *Client) Providers(ctx context.Context) ([]worker.Provider, error) {
	answer, err := retryOnce(ctx, c, func(ctx context.Context) (*connect.Response[workerv1.ProvidersResponse], error) {
		return c.rpc.Providers(ctx, connect.NewRequest(&workerv1.ProvidersRequest{}))
	})
	if err != nil {
		return nil, err
	}
	providers := make([]worker.Provider, 0, len(answer.Msg.GetProviders()))
	for _, p := range answer.Msg.GetProviders() {
		providers = append(providers, providerFromWire(p))
	}
	return providers, nil
}

// admit asks whether a sandbox's guest can be reached.
func (c *Client) admit(ctx context.Context, ref stacyvm.Ref) error {
	_, err := retryOnce(ctx, c, func(ctx context.Context) (*connect.Response[workerv1.AdmitResponse], error) {
		return c.rpc.Admit(ctx, connect.NewRequest(&workerv1.AdmitRequest{Ref: refToWire(ref)}))
	})
	return err
}
