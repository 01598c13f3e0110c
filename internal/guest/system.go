package guest

import (
	"context"
	"math"

	"github.com/stacyvm/stacyvm/internal/budget"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
)

// Ping asks whether the guest program answers and gives its boot id, random at each of its starts.
func (c *Client) Ping(ctx context.Context) (bootID string, err error) {
	answer, err := ask[guestv1.PingResponse](ctx, c, guestv1connect.SystemServicePingProcedure,
		&guestv1.PingRequest{})
	return text(answer.GetBootId(), maxName), err
}

// Rotate replaces the guest's secret: requests with the old one fail from then on, so that the
// connection must be made anew with the new one.
func (c *Client) Rotate(ctx context.Context, secret Secret) error {
	_, err := ask[guestv1.RotateResponse](ctx, c, guestv1connect.SystemServiceRotateProcedure,
		&guestv1.RotateRequest{Secret: string(secret)})
	return err
}

// Stats gives the sandbox's use of resources as its guest program sees it.
func (c *Client) Stats(ctx context.Context) (stacyvm.Stats, error) {
	answer, err := ask[guestv1.StatsResponse](ctx, c, guestv1connect.SystemServiceStatsProcedure,
		&guestv1.StatsRequest{})
	if err != nil {
		return stacyvm.Stats{}, err
	}
	return stacyvm.Stats{
		MemoryBytes:      answer.GetMemoryBytes(),
		MemoryLimitBytes: answer.GetMemoryLimitBytes(),
		CPUTime:          span(answer.GetCpuUs()),
		Processes:        int(min(answer.GetProcesses(), math.MaxInt32)),
		DiskBytes:        answer.GetDiskBytes(),
		DiskLimitBytes:   answer.GetDiskLimitBytes(),
	}, nil
}

const (
	defaultLines = 100
	maxLines     = 10_000
	maxLine      = 64 << 10 // bytes
)

// Tail gives the last lines that the sandbox's processes printed; 0 lines are 100, at most 10,000.
// CodeUnavailable: the request's budget has no room for them, too.
func (c *Client) Tail(ctx context.Context, lines int) ([]string, error) {
	if lines <= 0 {
		lines = defaultLines
	}
	lines = min(lines, maxLines)
	answer, err := ask[guestv1.TailResponse](ctx, c, guestv1connect.LogServiceTailProcedure,
		&guestv1.TailRequest{Lines: uint32(lines)})
	if err != nil {
		return nil, err
	}
	tail := answer.GetLines()
	tail = tail[max(len(tail)-lines, 0):]
	account := budget.From(ctx)
	for i := range tail {
		tail[i] = text(tail[i], maxLine)
		if !account.Take(len(tail[i])) {
			return nil, budget.Refused()
		}
	}
	return tail, nil
}
