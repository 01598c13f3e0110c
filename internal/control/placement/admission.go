package placement

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// Admit tells whether a draft would be let in now. CodeNotFound: no such provider;
// CodeUnavailable.
func (p *Placer) Admit(ctx context.Context, draft stacyvm.Sandbox) (admission stacyvm.Admission, err error) {
	for c, err := range p.fleet.candidates(ctx, time.Now(), draft) {
		if err != nil {
			return admission, err
		}
		taken := false
		err = p.store.View(ctx, func(tx store.Tx) (err error) {
			admission, taken, err = p.admission(ctx, tx, draft, c, false)
			return err
		})
		p.fleet.release(c.slot, false)
		if !taken || err != nil {
			admission.Queueable = admission.Queueable && p.queue.open()
			return admission, err
		}
	}
	return admission, errContended
}

// admission counts and decides; taken: the candidate's worker has no room after all. For a create
// it is in an Update, where a count holds until the end of the transaction and whoever counts the
// same waits for that end: then only what a limit asks for is counted, so that without limits
// creates wait for nobody.
func (p *Placer) admission(
	ctx context.Context, tx store.Tx, draft stacyvm.Sandbox, c candidate, creating bool,
) (a stacyvm.Admission, taken bool, err error) {
	a = stacyvm.Admission{Max: p.limits.Total, OwnerMax: p.limits.PerOwner, MaxTTL: p.limits.TTL}
	if a.Max > 0 || !creating {
		if a.Active, err = tx.Sandboxes().Count(ctx, store.SandboxFilter{}); err != nil {
			return a, false, err
		}
	}
	if draft.OwnerID != "" && (a.OwnerMax > 0 || !creating) {
		a.OwnerActive, err = tx.Sandboxes().Count(ctx,
			store.SandboxFilter{Tenant: draft.TenantID, Owner: draft.OwnerID})
		if err != nil {
			return a, false, err
		}
	}
	if a, err = decide(a, draft, c); err != nil || c.slot == nil || creating && !a.Allowed {
		return a, false, err
	}
	taken, err = p.inspect(ctx, tx, draft.Spec, c.slot)
	return a, taken, err
}

// decide says whether a create is let in, why not, and whether it would wait.
func decide(a stacyvm.Admission, draft stacyvm.Sandbox, c candidate) (stacyvm.Admission, error) {
	if !c.served {
		return a, stacyvm.Errorf(stacyvm.CodeNotFound, "provider %.64q does not exist", draft.Spec.Provider)
	}
	a.SelectedWorker, a.EligibleWorkers, a.WorkerReason = c.choice.Worker, c.choice.Eligible, c.choice.Reason
	a.Queueable = c.choice.Worker != "" || c.choice.Passing
	switch {
	case a.MaxTTL > 0 && draft.Spec.TTL > a.MaxTTL:
		a.Reason, a.Queueable = stacyvm.AdmissionMaxTTL, false
	case a.Max > 0 && a.Active >= a.Max:
		a.Reason = stacyvm.AdmissionMaxSandboxes
	case a.OwnerMax > 0 && draft.OwnerID != "" && a.OwnerActive >= a.OwnerMax:
		a.Reason = stacyvm.AdmissionMaxOwned
	case c.choice.Unreachable:
		a.Reason = stacyvm.AdmissionUnreachable
	case c.choice.Worker == "":
		a.Reason = stacyvm.AdmissionNoWorker
	}
	a.Allowed = a.Reason == ""
	a.Queueable = a.Queueable && !a.Allowed
	return a, nil
}

// refusal is the error of a create that was not let in.
func refusal(a stacyvm.Admission) *stacyvm.Error {
	switch a.Reason {
	case stacyvm.AdmissionMaxTTL:
		return OverTTL(a.MaxTTL)
	case stacyvm.AdmissionMaxSandboxes:
		return stacyvm.Errorf(stacyvm.CodeLimit, "the limit of %d sandboxes is reached", a.Max)
	case stacyvm.AdmissionMaxOwned:
		return stacyvm.Errorf(stacyvm.CodeLimit, "the owner's limit of %d sandboxes is reached", a.OwnerMax)
	default:
		return stacyvm.Errorf(stacyvm.CodeLimit, "no worker can take the sandbox: %s", a.WorkerReason)
	}
}

// OverTTL is the error of a life that is over the maximum.
func OverTTL(limit time.Duration) *stacyvm.Error {
	return &stacyvm.Error{Code: stacyvm.CodeLimit, Field: "ttl", Message: "ttl: over the maximum of " + limit.String()}
}
