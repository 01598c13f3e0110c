package cluster

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// Authority signs workers' certificates.
type Authority interface {
	// Check refuses what is no certificate request, with CodeInvalid.
	Check(request string) error
	// Sign makes a worker's certificate for the key in a request. CodeUnavailable: not now.
	Sign(worker stacyvm.WorkerID, request string) (Certificate, error)
	// Fingerprint is the SHA-256 of the authority's own certificate, in hex.
	Fingerprint() (string, error)
}

// Certificate is a worker's, in PEM.
type Certificate struct {
	Worker      stacyvm.WorkerID
	PEM         string
	Authorities string // whom it is to trust
	ExpiresAt   time.Time
}

var errNoAuthority = stacyvm.Errorf(stacyvm.CodeUnavailable,
	"this control plane does not have the authority's key: ask the one whose pki.dir has ca.pem")

// IssuedJoinToken is a new join token: Token itself is not kept.
type IssuedJoinToken struct {
	stacyvm.JoinToken
	Token       string
	Fingerprint string // of the authority, by which the worker knows the server; "" without one
}

// IssueJoinToken makes a token for a worker's id or a pattern ("": any), good for ttl (0: the
// default). CodeInvalid.
func (r *Registry) IssueJoinToken(
	ctx context.Context, worker string, ttl time.Duration,
) (issued IssuedJoinToken, err error) {
	caller := auth.From(ctx)
	defer func() { err = r.audit.Record(ctx, caller, "join_token.issue", stacyvm.Sandbox{}, issued.ID, err) }()
	if err := caller.Require(auth.ScopeAdminWorkers); err != nil {
		return issued, err
	}
	if worker == "" {
		worker = "*"
	}
	token, kept, err := auth.NewJoinToken(worker, ttl, time.Now())
	if err != nil {
		return issued, err
	}
	if r.authority != nil {
		if issued.Fingerprint, err = r.authority.Fingerprint(); err != nil {
			return issued, stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the authority cannot be read now")
		}
	}
	err = r.store.Update(ctx, func(tx store.Tx) (err error) {
		issued.JoinToken, err = tx.JoinTokens().Create(ctx, stacyvm.JoinToken(kept))
		return err
	})
	issued.Token = token
	return issued, err
}

// JoinTokens lists those that were not deleted.
func (r *Registry) JoinTokens(ctx context.Context) (list []stacyvm.JoinToken, err error) {
	caller := auth.From(ctx)
	if err := caller.Require(auth.ScopeAdminWorkers); err != nil {
		return nil, err
	}
	err = r.store.View(ctx, func(tx store.Tx) (err error) {
		list, err = tx.JoinTokens().List(ctx, store.Page{})
		return err
	})
	return list, err
}

// DeleteJoinToken makes a token worthless. CodeNotFound.
func (r *Registry) DeleteJoinToken(ctx context.Context, id string) error {
	caller := auth.From(ctx)
	err := caller.Require(auth.ScopeAdminWorkers)
	if err == nil {
		err = r.store.Update(ctx, func(tx store.Tx) error { return tx.JoinTokens().Delete(ctx, id) })
	}
	return r.audit.Record(ctx, caller, "join_token.delete", stacyvm.Sandbox{}, id, err)
}

// Join spends a token for a worker's first certificate. CodeUnauthenticated: the token is not
// accepted; CodeForbidden: the worker exists, and the token does not name it alone, or the id is
// a control plane's own; CodeUnavailable: there is no authority here; CodeInvalid: the request is
// none.
func (r *Registry) Join(
	ctx context.Context, token string, worker stacyvm.WorkerID, request string,
) (made Certificate, err error) {
	caller := auth.From(ctx)
	if r.authority == nil {
		return made, errNoAuthority
	}
	if err := r.authority.Check(request); err != nil { // before the token is spent
		return made, err
	}
	if _, err := auth.Join(ctx, joinTokens{r, caller}, token, worker, time.Now()); err != nil {
		return made, err // not audited: anybody may guess
	}
	made, err = r.authority.Sign(worker, request)
	return made, r.audit.Record(ctx, caller, "worker.join", stacyvm.Sandbox{}, string(worker), err)
}

// Certify gives the calling worker a certificate for another key. The transport has seen its
// present one.
func (r *Registry) Certify(
	ctx context.Context, worker stacyvm.WorkerID, request string,
) (made Certificate, err error) {
	caller := auth.From(ctx)
	if err := asWorker(caller, worker, auth.ScopeHeartbeat); err != nil {
		return made, err
	}
	if err := r.unreserved(ctx, caller, worker); err != nil {
		return made, err
	}
	if r.authority == nil {
		return made, errNoAuthority
	}
	if err = r.authority.Check(request); err == nil {
		made, err = r.authority.Sign(worker, request)
	}
	return made, r.audit.Record(ctx, caller, "worker.certify", stacyvm.Sandbox{}, string(worker), err)
}

// IssueWorkerToken signs a worker's token. CodeInvalid; CodeUnavailable: there is no key for it.
func (r *Registry) IssueWorkerToken(
	ctx context.Context, request auth.WorkerTokenRequest,
) (token string, says auth.WorkerClaims, err error) {
	caller := auth.From(ctx)
	err = caller.Require(auth.ScopeAdminWorkers)
	switch {
	case err != nil:
	case r.issuer == nil:
		err = stacyvm.Errorf(stacyvm.CodeUnavailable, "auth.worker_signing_key is not set")
	default:
		token, says, err = r.issuer.Issue(request)
	}
	return token, says, r.audit.Record(ctx, caller, "worker_token.issue", stacyvm.Sandbox{},
		string(request.WorkerID), err)
}

// joinTokens gives auth the store's.
type joinTokens struct {
	*Registry
	caller stacyvm.Principal
}

// AddJoinToken implements auth.JoinTokens.
func (j joinTokens) AddJoinToken(ctx context.Context, token auth.JoinToken) error {
	return j.store.Update(ctx, func(tx store.Tx) error {
		_, err := tx.JoinTokens().Create(ctx, stacyvm.JoinToken(token))
		return err
	})
}

// JoinToken implements auth.JoinTokens.
func (j joinTokens) JoinToken(ctx context.Context, id string) (token auth.JoinToken, err error) {
	err = j.store.View(ctx, func(tx store.Tx) error {
		kept, err := tx.JoinTokens().Get(ctx, id)
		token = auth.JoinToken(kept)
		return err
	})
	return token, err
}

// UseJoinToken implements auth.JoinTokens. A token for any new worker must not make its bearer
// one that is there already, and none makes one a control plane's own.
func (j joinTokens) UseJoinToken(ctx context.Context, id string, worker stacyvm.WorkerID) error {
	return j.store.Update(ctx, func(tx store.Tx) error {
		used, err := tx.JoinTokens().Use(ctx, id, worker)
		if err != nil {
			return err
		}
		known, err := tx.Workers().Hold(ctx, worker)
		if refused := j.reserved(j.caller, worker, known, err); refused != nil {
			return refused
		}
		if err == nil && used.Worker != string(worker) {
			return stacyvm.Errorf(stacyvm.CodeForbidden,
				"worker %s exists already: it needs a join token that names it alone, "+
					"or to be forgotten first", worker)
		}
		return nil
	})
}
