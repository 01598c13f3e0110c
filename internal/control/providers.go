package control

import (
	"context"
	"slices"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// readyWithin bounds what a readiness question may cost.
const readyWithin = 3 * time.Second

// always are the capabilities that the guest program gives to every engine.
var always = []string{"spawn", "exec", "exec_stream", "files", "console", "health", "runtime_inventory"}

// Providers tells of the engines that this server can use, here or through workers of other machines, by name.
func (s *Service) Providers(ctx context.Context) ([]ProviderStatus, error) {
	if err := auth.From(ctx).Require(auth.ScopeReadSandboxes); err != nil {
		return nil, err
	}
	return s.providers(ctx)
}

// Provider tells of one engine. CodeNotFound: there is none of that name.
func (s *Service) Provider(ctx context.Context, name string) (ProviderStatus, error) {
	providers, err := s.Providers(ctx)
	if err != nil {
		return ProviderStatus{}, err
	}
	for _, p := range providers {
		if p.Name == name {
			return p, nil
		}
	}
	return ProviderStatus{}, stacyvm.Errorf(stacyvm.CodeNotFound, "provider %.64q does not exist", name)
}

func (s *Service) providers(ctx context.Context) ([]ProviderStatus, error) {
	engines, err := s.engines(ctx)
	if err != nil {
		return nil, err
	}
	statuses := make([]ProviderStatus, len(engines))
	for i, e := range engines {
		statuses[i] = s.status(e)
	}
	err = s.store.View(ctx, func(tx store.Tx) error {
		for i := range statuses {
			statuses[i].Sandboxes, err = tx.Sandboxes().Count(ctx, store.SandboxFilter{Provider: statuses[i].Name})
			if err != nil {
				return err
			}
		}
		return nil
	})
	return statuses, err
}

func (s *Service) status(p worker.Provider) ProviderStatus {
	status := ProviderStatus{
		Name:         p.Name,
		Healthy:      p.Error == "" && p.Capabilities.Usable,
		Default:      p.Name == s.defaults.Provider,
		Isolates:     p.Capabilities.Isolates,
		Latency:      p.Latency,
		CheckedAt:    p.CheckedAt,
		Error:        p.Error,
		Capabilities: slices.Concat(always, p.Capabilities.Features),
		Enforces:     p.Capabilities.Enforces,
		Runtimes:     p.Runtimes,
	}
	if !status.Healthy && status.Error == "" {
		status.Error = "not usable on this machine"
		if len(p.Capabilities.Problems) > 0 {
			status.Error = p.Capabilities.Problems[0].What
		}
	}
	return status
}

// Readiness says whether requests can be served: the store answers, the first recovery pass over its rows is done, and the disk has room.
// Anybody may ask.
func (s *Service) Readiness(ctx context.Context) Readiness {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	r := Readiness{Dropped: s.audit.Dropped(), Problems: s.problems()}
	err := s.store.Ping(ctx)
	if r.StoreOK = err == nil; !r.StoreOK {
		r.Problems = append(r.Problems, "the database does not answer: "+messageOf(err))
	}
	r.Ready = r.StoreOK && s.recovered() && len(r.Problems) == 0
	_, err = s.workers(s.self)
	r.Alone = err != nil
	if r.StoreOK {
		r.Providers, _ = s.providers(ctx) // without them the answer is as good
	}
	return r
}
