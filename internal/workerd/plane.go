package workerd

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker/member"
)

// webClient makes an HTTP client with connections of its own; trusted is of https, nil: the
// system's authorities.
func webClient(trusted *tls.Config) *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig = trusted
	// A connection on which nothing comes back any more is given up before the leases end, also
	// when it is shared.
	transport.HTTP2 = &http.HTTP2Config{
		SendPingTimeout:  member.TryWithin,
		PingTimeout:      member.TryWithin,
		WriteByteTimeout: member.TryWithin,
	}
	return &http.Client{Transport: transport}
}

// plane is a control plane over HTTP.
type plane struct {
	client  *client.Client
	address string
}

// Address implements member.ControlPlane.
func (p plane) Address() string { return p.address }

// Heartbeat implements member.ControlPlane.
func (p plane) Heartbeat(ctx context.Context, beat member.Heartbeat) (stacyvm.Worker, error) {
	w, err := p.client.Heartbeat(ctx, client.WorkerHeartbeat{
		Session:      beat.Session,
		Register:     beat.Register,
		Hostname:     beat.Hostname,
		Status:       string(beat.Status),
		Providers:    beat.Providers,
		Capabilities: beat.Capabilities,
		Capacity:     client.WorkerCapacity(beat.Capacity),
		Problems:     beat.Problems,
	})
	if err != nil {
		return stacyvm.Worker{}, planeError(err)
	}
	return stacyvm.Worker{
		ID: stacyvm.WorkerID(
			w.ID,
		),
		Hostname:     w.Hostname,
		Status:       stacyvm.WorkerStatus(w.Status),
		Providers:    w.Providers,
		Capabilities: w.Capabilities,
		Capacity: stacyvm.Capacity(
			w.Capacity,
		),
		Problems:      w.Problems,
		LastHeartbeat: w.LastHeartbeat,
		CreatedAt:     w.CreatedAt,
		UpdatedAt:     w.UpdatedAt,
	}, nil
}

// Renew implements member.ControlPlane.
func (p plane) Renew(ctx context.Context, session string, handover bool) (member.Renewal, error) {
	answer, err := p.client.RenewLeases(ctx, session, handover)
	if err != nil {
		return member.Renewal{}, planeError(err)
	}
	renewal := member.Renewal{
		Cluster: answer.Cluster,
		Lapsed:  answer.Lapsed,
		Fences:  make(map[stacyvm.SandboxID]stacyvm.Fence, len(answer.Leases)),
	}
	for _, lease := range answer.Leases {
		renewal.Fences[stacyvm.SandboxID(lease.ResourceID)] = stacyvm.Fence{
			Incarnation: answer.Incarnation,
			Epoch:       lease.Epoch,
		}
	}
	return renewal, nil
}

// Lease implements member.ControlPlane.
func (p plane) Lease(ctx context.Context, id stacyvm.SandboxID) (stacyvm.Fence, error) {
	lease, err := p.client.WorkerLease(ctx, string(id))
	return stacyvm.Fence{Incarnation: lease.Incarnation, Epoch: lease.Epoch}, planeError(err)
}

// planeError gives a control plane's refusal the code that a worker acts by. Whatever is no
// refusal is silence.
func planeError(err error) error {
	if err == nil {
		return nil
	}
	if _, coded := errors.AsType[*stacyvm.Error](err); coded {
		return err // the worker's own: a token that could not be made
	}
	codes := map[string]stacyvm.Code{
		client.CodeUnauthorized: stacyvm.CodeUnauthenticated,
		client.CodeForbidden:    stacyvm.CodeForbidden,
		client.CodeBadRequest:   stacyvm.CodeInvalid,
	}
	refusal, answered := errors.AsType[*client.Error](err)
	switch {
	case !answered:
		return stacyvm.Errorf(stacyvm.CodeUnavailable, "%v", err)
	case refusal.Code == client.CodeConflict && refusal.RetryAfter == 0:
		return stacyvm.Wrap(stacyvm.CodeConflict, err, "the control plane refuses")
	case refusal.Code == client.CodeNotFound && refusal.RequestID != "": // ours, and not a proxy's
		return stacyvm.Wrap(stacyvm.CodeNotFound, err, "the control plane does not know it")
	}
	// unwrapped: what it would mean to a client is not what it means here
	return stacyvm.Errorf(cmp.Or(codes[refusal.Code], stacyvm.CodeUnavailable), "%v", err)
}

// issued is a token that control planes issue, asked for anew when half of its life is over.
type issued struct {
	ask     []func(context.Context, client.WorkerTokenRequest) (client.WorkerToken, error)
	request client.WorkerTokenRequest
	life    time.Duration

	mu      sync.Mutex
	present string
	until   time.Time // monotonic
}

func (b *issued) token(ctx context.Context) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if now.Before(b.until) {
		return b.present, nil
	}
	var failure error
	for _, ask := range b.ask {
		answer, err := ask(ctx, b.request)
		if err == nil {
			b.present, b.until = answer.Token, now.Add(b.life/2)
			return b.present, nil
		}
		if failure == nil || client.CodeOf(err) != "" {
			failure = err
		}
	}
	return "", planeError(failure)
}
