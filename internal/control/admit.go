package control

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// Reasons of an admission that is refused.
const (
	reasonMaxTTL      = "max_ttl"
	reasonMax         = "max_sandboxes"
	reasonOwnerMax    = "max_sandboxes_per_owner"
	reasonNoWorkers   = "worker_unavailable"
	reasonUnreachable = "remote_worker_rpc_unavailable"
)

// Admit tells whether a create would be let in now. CodeInvalid, CodeNotFound and CodeUnsupported as for Create.
func (s *Service) Admit(ctx context.Context, request CreateRequest) (admission stacyvm.Admission, err error) {
	if err := auth.From(ctx).Require(auth.ScopeReadSandboxes); err != nil {
		return admission, err
	}
	p, err := s.plan(auth.From(ctx), request)
	if err != nil {
		return admission, err
	}
	err = s.seek(ctx, time.Now(), p.spec, stacyvm.NewSandboxID(), func(b bid) (bool, error) {
		return false, s.store.View(ctx, func(tx store.Tx) (err error) {
			admission, err = s.admission(ctx, tx, p, b, false)
			return err
		})
	})
	if admission.Queueable {
		admission.Queueable = s.queue.open()
	}
	return admission, err
}

// admission counts and decides. For a create it is in an Update, where a count holds until the end of the transaction and
// whoever counts the same waits for that end: then only what a limit asks for is counted, so that without limits creates wait
// for nobody.
func (s *Service) admission(ctx context.Context, tx store.Tx, p plan, b bid, creating bool) (stacyvm.Admission, error) {
	a := stacyvm.Admission{Max: s.defaults.MaxSandboxes, OwnerMax: s.defaults.MaxSandboxesPerOwner, MaxTTL: s.defaults.MaxTTL}
	var err error
	if a.Max > 0 || !creating {
		if a.Active, err = tx.Sandboxes().Count(ctx, store.SandboxFilter{}); err != nil {
			return a, err
		}
	}
	if p.owner != "" && (a.OwnerMax > 0 || !creating) {
		if a.OwnerActive, err = tx.Sandboxes().Count(ctx, store.SandboxFilter{Tenant: p.tenant, Owner: p.owner}); err != nil {
			return a, err
		}
	}
	if a, err = decide(a, p, b); err != nil || b.place == nil || creating && !a.Allowed {
		return a, err
	}
	return a, s.inspect(ctx, tx, p.spec, b.place)
}

// decide says whether a create is let in, why not, and whether it would wait.
func decide(a stacyvm.Admission, p plan, b bid) (stacyvm.Admission, error) {
	if !b.served {
		return a, stacyvm.Errorf(stacyvm.CodeNotFound, "provider %.64q does not exist", p.spec.Provider)
	}
	a.SelectedWorker, a.EligibleWorkers, a.WorkerReason = b.choice.Worker, b.choice.Eligible, b.choice.Reason
	a.Queueable = b.choice.Worker != "" || b.choice.Passing
	switch {
	case a.MaxTTL > 0 && p.spec.TTL > a.MaxTTL:
		a.Reason, a.Queueable = reasonMaxTTL, false
	case a.Max > 0 && a.Active >= a.Max:
		a.Reason = reasonMax
	case a.OwnerMax > 0 && p.owner != "" && a.OwnerActive >= a.OwnerMax:
		a.Reason = reasonOwnerMax
	case b.choice.Unreachable:
		a.Reason = reasonUnreachable
	case b.choice.Worker == "":
		a.Reason = reasonNoWorkers
	}
	a.Allowed = a.Reason == ""
	a.Queueable = a.Queueable && !a.Allowed
	return a, nil
}

// refusal is the error of a create that was not let in.
func refusal(a stacyvm.Admission) *stacyvm.Error {
	switch a.Reason {
	case reasonMaxTTL:
		return overTTL(a.MaxTTL)
	case reasonMax:
		return stacyvm.Errorf(stacyvm.CodeLimit, "the limit of %d sandboxes is reached", a.Max)
	case reasonOwnerMax:
		return stacyvm.Errorf(stacyvm.CodeLimit, "the owner's limit of %d sandboxes is reached", a.OwnerMax)
	}
	return stacyvm.Errorf(stacyvm.CodeLimit, "no worker can take the sandbox: %s", a.WorkerReason)
}

func overTTL(limit time.Duration) *stacyvm.Error {
	return &stacyvm.Error{Code: stacyvm.CodeLimit, Field: "ttl", Message: "ttl: over the maximum of " + limit.String()}
}
