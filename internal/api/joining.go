package api

import (
	"context"
	"net/http"
	"time"

	"github.com/stacyvm/stacyvm/internal/api/middleware"
	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/control/cluster"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

func (a *api) joiningRoutes() {
	register(a, route{method: http.MethodPost, path: "/admin/worker-tokens", id: "worker-token", tag: tagWorkers,
		summary: "Sign a token for a worker"}, a.workerToken)
	register(a, route{method: http.MethodPost, path: "/admin/join-tokens", id: "join-token", tag: tagWorkers,
		summary: "Make a one-time token for a new worker"}, a.joinToken)
	register(a, route{method: http.MethodGet, path: "/admin/join-tokens", id: "list-join-tokens", tag: tagWorkers,
		summary: "List join tokens, without their secrets"}, a.joinTokens)
	register(
		a,
		route{method: http.MethodDelete, path: "/admin/join-tokens/{token}", id: "delete-join-token", tag: tagWorkers,
			summary: "Make a join token worthless", errors: []int{404}},
		a.deleteJoinToken,
	)
	register(a, route{method: http.MethodPost, path: "/worker/join", id: "join", tag: tagWorkers,
		summary: "Get a new worker's certificate for a join token", errors: []int{401, 503}}, a.join)
	register(
		a,
		route{method: http.MethodPost, path: "/worker/{worker}/certificate", id: "certificate", tag: tagWorkers,
			summary: "Get this worker's next certificate; its present one has to be shown"},
		a.certificate,
	)
}

// WorkerToken is a signed token of a worker.
type WorkerToken struct {
	Token     string    `json:"token"`
	WorkerID  string    `json:"worker_id"`
	ExpiresAt time.Time `json:"expires_at"`
}

type workerTokenInput struct {
	Body struct {
		WorkerID string   `json:"worker_id" maxLength:"64" example:"worker-a"`
		TTL      string   `json:"ttl,omitempty" maxLength:"64" doc:"At most 15m; 5m when not given." example:"5m"`
		Scopes   []string `json:"scopes,omitempty" maxItems:"16" doc:"Such as worker:heartbeat; none: all eight."`
		Audience string   `json:"audience,omitempty" maxLength:"64" doc:"worker:control-plane (default) or worker:rpc."`
	}
}

func (a *api) workerToken(ctx context.Context, in *workerTokenInput) (*body[WorkerToken], error) {
	ttl, err := lifetimeOrZero("ttl", in.Body.TTL)
	if err != nil {
		return nil, err
	}
	token, says, err := a.Service.IssueWorkerToken(ctx, auth.WorkerTokenRequest{
		WorkerID: stacyvm.WorkerID(
			in.Body.WorkerID,
		),
		Audience: auth.WorkerAudience(in.Body.Audience),
		Scopes:   in.Body.Scopes,
		TTL:      ttl,
	})
	return answered(WorkerToken{token, in.Body.WorkerID, says.ExpiresAt.UTC()}, err)
}

// lifetimeOrZero is lifetime with 0 for what is not given.
func lifetimeOrZero(field, text string) (time.Duration, error) {
	d, err := lifetime(field, text)
	if err != nil || d == nil {
		return 0, err
	}
	return *d, nil
}

// JoinToken is a join token without its secret.
type JoinToken struct {
	ID        string     `json:"id"`
	Worker    string     `json:"worker" doc:"Whose id may join with it, or a pattern."`
	CreatedAt time.Time  `json:"created_at"`
	ExpiresAt time.Time  `json:"expires_at"`
	UsedAt    *time.Time `json:"used_at,omitempty"`
	UsedBy    string     `json:"used_by,omitempty"`
}

// IssuedJoinToken is a new one.
type IssuedJoinToken struct {
	Token           string    `json:"token" doc:"Good once; it is not shown again."`
	ID              string    `json:"id"`
	Worker          string    `json:"worker"`
	ExpiresAt       time.Time `json:"expires_at"`
	AuthoritySHA256 string    `json:"authority_sha256" doc:"By which the worker knows this server; empty where there is no authority."`
}

type joinTokenInput struct {
	Body struct {
		Worker string `json:"worker,omitempty" maxLength:"64" doc:"Whose id may join with it, or a pattern such as rack1-*; any when not given."`
		TTL    string `json:"ttl,omitempty" maxLength:"64" doc:"At most 168h; 1h when not given." example:"1h"`
	}
}

func (a *api) joinToken(ctx context.Context, in *joinTokenInput) (*body[IssuedJoinToken], error) {
	ttl, err := lifetimeOrZero("ttl", in.Body.TTL)
	if err != nil {
		return nil, err
	}
	issued, err := a.Service.IssueJoinToken(ctx, in.Body.Worker, ttl)
	return answered(
		IssuedJoinToken{issued.Token, issued.ID, issued.Worker, issued.ExpiresAt.UTC(), issued.Fingerprint},
		err,
	)
}

func (a *api) joinTokens(ctx context.Context, _ *struct{}) (*body[[]JoinToken], error) {
	list, err := a.Service.JoinTokens(ctx)
	return answered(each(list, func(t stacyvm.JoinToken) JoinToken {
		shown := JoinToken{
			ID:        t.ID,
			Worker:    t.Worker,
			CreatedAt: t.CreatedAt.UTC(),
			ExpiresAt: t.ExpiresAt.UTC(),
			UsedBy:    string(t.UsedBy),
		}
		if !t.UsedAt.IsZero() {
			shown.UsedAt = new(t.UsedAt.UTC())
		}
		return shown
	}), err)
}

type joinTokenPath struct {
	Token string `path:"token" pattern:"^[A-Za-z0-9._-]{1,64}$" patternDescription:"1 to 64 letters, digits, ., - or _" doc:"The join token's id."`
}

func (a *api) deleteJoinToken(ctx context.Context, in *joinTokenPath) (*body[Status], error) {
	return done("deleted", a.Service.DeleteJoinToken(ctx, in.Token))
}

// Certificate is a worker's certificate, in PEM.
type Certificate struct {
	WorkerID    string    `json:"worker_id"`
	Certificate string    `json:"certificate"`
	Authorities string    `json:"authorities" doc:"Whom the worker is to trust."`
	ExpiresAt   time.Time `json:"expires_at"`
}

func certificateOf(c cluster.Certificate, err error) (*body[Certificate], error) {
	return answered(Certificate{string(c.Worker), c.PEM, c.Authorities, c.ExpiresAt.UTC()}, err)
}

type joinInput struct {
	Body struct {
		Token    string `json:"token" maxLength:"4096"`
		WorkerID string `json:"worker_id" maxLength:"64"`
		CSR      string `json:"csr" maxLength:"16384" doc:"Certificate request, PEM."`
	}
}

func (a *api) join(ctx context.Context, in *joinInput) (*body[Certificate], error) {
	return certificateOf(a.Service.Join(ctx, in.Body.Token, stacyvm.WorkerID(in.Body.WorkerID), in.Body.CSR))
}

type certificateInput struct {
	WorkerPath
	Body struct {
		CSR string `json:"csr" maxLength:"16384" doc:"Certificate request, PEM."`
	}
}

func (a *api) certificate(ctx context.Context, in *certificateInput) (*body[Certificate], error) {
	if middleware.WorkerIdentity(ctx).Method != auth.MethodCertificate {
		return nil, stacyvm.Errorf(
			stacyvm.CodeForbidden,
			"the worker's present certificate has to be shown, and no token beside it",
		)
	}
	return certificateOf(a.Service.Certify(ctx, in.id(), in.Body.CSR))
}
