package control

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

var errNoAuthority = stacyvm.Errorf(stacyvm.CodeUnavailable, "this control plane does not have the authority's key: ask the one whose pki.dir has ca.pem")

// IssuedJoinToken is a new join token: Token itself is not kept.
type IssuedJoinToken struct {
	stacyvm.JoinToken
	Token       string
	Fingerprint string // of the authority, by which the worker knows the server; "" without one
}

// IssueJoinToken makes a token for a worker's id or a pattern ("": any), good for ttl (0: the default). CodeInvalid.
func (s *Service) IssueJoinToken(ctx context.Context, worker string, ttl time.Duration) (issued IssuedJoinToken, err error) {
	defer func() { err = s.audited(ctx, "join_token.issue", stacyvm.Sandbox{}, issued.ID, err) }()
	if err := auth.From(ctx).Require(auth.ScopeAdminWorkers); err != nil {
		return issued, err
	}
	if worker == "" {
		worker = "*"
	}
	token, kept, err := auth.NewJoinToken(worker, ttl, time.Now())
	if err != nil {
		return issued, err
	}
	if s.authority != nil {
		if issued.Fingerprint, err = s.authority.Fingerprint(); err != nil {
			return issued, stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the authority cannot be read now")
		}
	}
	err = s.store.Update(ctx, func(tx store.Tx) (err error) {
		issued.JoinToken, err = tx.JoinTokens().Create(ctx, stacyvm.JoinToken(kept))
		return err
	})
	issued.Token = token
	return issued, err
}

// JoinTokens lists those that were not deleted.
func (s *Service) JoinTokens(ctx context.Context) (list []stacyvm.JoinToken, err error) {
	if err := auth.From(ctx).Require(auth.ScopeAdminWorkers); err != nil {
		return nil, err
	}
	err = s.store.View(ctx, func(tx store.Tx) (err error) {
		list, err = tx.JoinTokens().List(ctx, store.Page{})
		return err
	})
	return list, err
}

// DeleteJoinToken makes a token worthless. CodeNotFound.
func (s *Service) DeleteJoinToken(ctx context.Context, id string) error {
	err := auth.From(ctx).Require(auth.ScopeAdminWorkers)
	if err == nil {
		err = s.store.Update(ctx, func(tx store.Tx) error { return tx.JoinTokens().Delete(ctx, id) })
	}
	return s.audited(ctx, "join_token.delete", stacyvm.Sandbox{}, id, err)
}

// Join spends a token for a worker's first certificate. CodeUnauthenticated: the token is not accepted; CodeForbidden: the worker
// exists, and the token does not name it alone, or the id is a control plane's own; CodeUnavailable: there is no authority here; CodeInvalid: the request is none.
func (s *Service) Join(ctx context.Context, token string, worker stacyvm.WorkerID, request string) (made Certificate, err error) {
	if s.authority == nil {
		return made, errNoAuthority
	}
	if err := s.authority.Check(request); err != nil { // before the token is spent
		return made, err
	}
	if _, err := auth.Join(ctx, joinTokens{s}, token, worker, time.Now()); err != nil {
		return made, err // not audited: anybody may guess
	}
	made, err = s.authority.Sign(worker, request)
	return made, s.audited(ctx, "worker.join", stacyvm.Sandbox{}, string(worker), err)
}

// Certify gives the calling worker a certificate for another key. The transport has seen its present one.
func (s *Service) Certify(ctx context.Context, worker stacyvm.WorkerID, request string) (made Certificate, err error) {
	if err := asWorker(ctx, worker, auth.ScopeHeartbeat); err != nil {
		return made, err
	}
	if err := s.unreserved(ctx, worker); err != nil {
		return made, err
	}
	if s.authority == nil {
		return made, errNoAuthority
	}
	if err = s.authority.Check(request); err == nil {
		made, err = s.authority.Sign(worker, request)
	}
	return made, s.audited(ctx, "worker.certify", stacyvm.Sandbox{}, string(worker), err)
}

// IssueWorkerToken signs a worker's token. CodeInvalid; CodeUnavailable: there is no key for it.
func (s *Service) IssueWorkerToken(ctx context.Context, r auth.WorkerTokenRequest) (token string, says auth.WorkerClaims, err error) {
	err = auth.From(ctx).Require(auth.ScopeAdminWorkers)
	switch {
	case err != nil:
	case s.issuer == nil:
		err = stacyvm.Errorf(stacyvm.CodeUnavailable, "auth.worker_signing_key is not set")
	default:
		token, says, err = s.issuer.Issue(r)
	}
	return token, says, s.audited(ctx, "worker_token.issue", stacyvm.Sandbox{}, string(r.WorkerID), err)
}

// joinTokens gives auth the store's.
type joinTokens struct{ *Service }

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

// UseJoinToken implements auth.JoinTokens. A token for any new worker must not make its bearer one that is there already, and none
// makes one a control plane's own.
func (j joinTokens) UseJoinToken(ctx context.Context, id string, worker stacyvm.WorkerID) error {
	return j.store.Update(ctx, func(tx store.Tx) error {
		used, err := tx.JoinTokens().Use(ctx, id, worker)
		if err != nil {
			return err
		}
		known, err := tx.Workers().Hold(ctx, worker)
		if refused := j.reserved(ctx, worker, known, err); refused != nil {
			return refused
		}
		if err == nil && used.Worker != string(worker) {
			return stacyvm.Errorf(stacyvm.CodeForbidden, "worker %s exists already: it needs a join token that names it alone, or to be forgotten first", worker)
		}
		return nil
	})
}
