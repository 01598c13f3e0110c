package control

import (
	"context"
	"slices"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/schedule"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// Reasons of an admission that is refused.
const (
	reasonMaxTTL    = "max_ttl"
	reasonMax       = "max_sandboxes"
	reasonOwnerMax  = "max_sandboxes_per_owner"
	reasonNoWorkers = "worker_unavailable"
)

// Admit tells whether a create would be let in now. CodeInvalid, CodeNotFound and CodeUnsupported as for Create.
func (s *Service) Admit(ctx context.Context, request CreateRequest) (stacyvm.Admission, error) {
	if err := authorise(ctx, scopeRead); err != nil {
		return stacyvm.Admission{}, err
	}
	p, err := s.plan(auth.From(ctx), request)
	if err != nil {
		return stacyvm.Admission{}, err
	}
	var admission stacyvm.Admission
	err = s.store.View(ctx, func(tx store.Tx) error {
		admission, err = s.admission(ctx, tx, p)
		return err
	})
	return admission, err
}

// admission counts and places, as things are.
func (s *Service) admission(ctx context.Context, tx store.Tx, p plan) (stacyvm.Admission, error) {
	a := s.limits()
	var err error
	if a.Active, err = tx.Sandboxes().Count(ctx, store.SandboxFilter{}); err != nil {
		return a, err
	}
	if p.owner != "" {
		if a.OwnerActive, err = tx.Sandboxes().Count(ctx, ofOwner(p)); err != nil {
			return a, err
		}
	}
	active, err := tx.Workers().Loads(ctx)
	if err != nil {
		return a, err
	}
	candidates, err := s.candidates(ctx, tx, active)
	if err != nil {
		return a, err
	}
	return decide(a, p, candidates, schedule.Pick(p.spec, candidates))
}

// reservation is admission for a create: in an Update, where a count holds until the end of the transaction and whoever
// counts the same waits for that end. So only what a limit asks for is counted; without limits creates wait for nobody.
func (s *Service) reservation(ctx context.Context, tx store.Tx, p plan) (stacyvm.Admission, error) {
	a := s.limits()
	var err error
	if a.Max > 0 {
		if a.Active, err = tx.Sandboxes().Count(ctx, store.SandboxFilter{}); err != nil {
			return a, err
		}
	}
	if a.OwnerMax > 0 && p.owner != "" {
		if a.OwnerActive, err = tx.Sandboxes().Count(ctx, ofOwner(p)); err != nil {
			return a, err
		}
	}
	active, err := s.loads.read(ctx, tx)
	if err != nil {
		return a, err
	}
	candidates, err := s.candidates(ctx, tx, active)
	if err != nil {
		return a, err
	}
	choice, err := place(ctx, tx, p.spec, candidates)
	if err != nil {
		return a, err
	}
	return decide(a, p, candidates, choice)
}

// place picks a worker. One that has a limit is counted exactly, and others are looked at when it is fuller than it seemed.
func place(ctx context.Context, tx store.Tx, spec stacyvm.Spec, candidates []schedule.Candidate) (schedule.Choice, error) {
	counted := map[stacyvm.WorkerID]bool{}
	for {
		choice := schedule.Pick(spec, candidates)
		at := slices.IndexFunc(candidates, func(c schedule.Candidate) bool { return c.Worker.ID == choice.Worker })
		if at < 0 || candidates[at].Worker.Capacity.MaxSandboxes == 0 || counted[choice.Worker] {
			return choice, nil
		}
		active, err := tx.Sandboxes().Count(ctx, store.SandboxFilter{Worker: choice.Worker})
		if err != nil {
			return choice, err
		}
		candidates[at].Active, counted[choice.Worker] = active, true
	}
}

func (s *Service) limits() stacyvm.Admission {
	return stacyvm.Admission{Max: s.defaults.MaxSandboxes, OwnerMax: s.defaults.MaxSandboxesPerOwner, MaxTTL: s.defaults.MaxTTL}
}

func ofOwner(p plan) store.SandboxFilter {
	return store.SandboxFilter{Tenant: p.tenant, Owner: p.owner}
}

// decide says whether a create is let in, and why not.
func decide(a stacyvm.Admission, p plan, candidates []schedule.Candidate, choice schedule.Choice) (stacyvm.Admission, error) {
	if !served(candidates, p.spec.Provider) {
		return a, stacyvm.Errorf(stacyvm.CodeNotFound, "provider %.64q does not exist", p.spec.Provider)
	}
	a.SelectedWorker, a.EligibleWorkers, a.WorkerReason = choice.Worker, choice.Eligible, choice.Reason
	switch {
	case a.MaxTTL > 0 && p.spec.TTL > a.MaxTTL:
		a.Reason = reasonMaxTTL
	case a.Max > 0 && a.Active >= a.Max:
		a.Reason = reasonMax
	case a.OwnerMax > 0 && p.owner != "" && a.OwnerActive >= a.OwnerMax:
		a.Reason = reasonOwnerMax
	case choice.Worker == "":
		a.Reason = reasonNoWorkers
	}
	a.Allowed = a.Reason == ""
	return a, nil
}

// candidates are the registered workers with their load.
func (s *Service) candidates(ctx context.Context, tx store.Tx, active map[stacyvm.WorkerID]stacyvm.Usage) ([]schedule.Candidate, error) {
	workers, err := tx.Workers().List(ctx, store.Page{})
	if err != nil {
		return nil, err
	}
	now, err := tx.Now(ctx)
	if err != nil {
		return nil, err
	}
	candidates := make([]schedule.Candidate, 0, len(workers))
	for _, w := range workers {
		age := now.Sub(w.LastHeartbeat)
		if w.ID == s.self {
			age = 0 // this process needs no message to know that it lives
		}
		candidates = append(candidates, schedule.Candidate{Worker: w, Active: active[w.ID].Sandboxes, Age: age, Local: w.ID == s.self})
	}
	return candidates, nil
}

// served reports whether any worker, in whatever state, has the engine. Without a worker nothing is known to be missing.
func served(candidates []schedule.Candidate, provider string) bool {
	for _, c := range candidates {
		if schedule.Serves(c.Worker, provider) {
			return true
		}
	}
	return len(candidates) == 0
}

// refusal is the error of a create that was not let in.
func refusal(a stacyvm.Admission) error {
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

func overTTL(limit time.Duration) error {
	return &stacyvm.Error{Code: stacyvm.CodeLimit, Field: "ttl", Message: "ttl: over the maximum of " + limit.String()}
}
