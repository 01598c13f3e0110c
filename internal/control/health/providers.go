package health

import (
	"context"
	"slices"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// ProviderStatus is one engine as the providers route shows it.
type ProviderStatus struct {
	Name         string
	Healthy      bool
	Default      bool
	Isolates     bool
	Latency      time.Duration
	CheckedAt    time.Time
	Error        string
	Capabilities []string
	Enforces     []stacyvm.Limit
	Runtimes     int
	Sandboxes    int
}

// Readiness says whether requests can be served.
type Readiness struct {
	Ready     bool
	StoreOK   bool
	Dropped   int64    // audit lines that are in the log alone, since the start of this process
	Problems  []string // with this machine
	Alone     bool     // no worker is in this process: it is ready without engines, so that workers can join
	Providers []ProviderStatus
}

// readyWithin bounds what a readiness question may cost.
const readyWithin = 3 * time.Second

// always are the capabilities that the guest program gives to every engine.
var always = []string{"spawn", "exec", "exec_stream", "files", "console", "health", "runtime_inventory"}

// Providers tells of the engines that this server can use, here or through workers of other
// machines, by name.
func (m *Monitor) Providers(ctx context.Context) ([]ProviderStatus, error) {
	caller := auth.From(ctx)
	if err := caller.Require(auth.ScopeReadSandboxes); err != nil {
		return nil, err
	}
	return m.providers(ctx)
}

// Provider tells of one engine. CodeNotFound: there is none of that name.
func (m *Monitor) Provider(ctx context.Context, name string) (ProviderStatus, error) {
	providers, err := m.Providers(ctx)
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

func (m *Monitor) providers(ctx context.Context) ([]ProviderStatus, error) {
	engines, err := m.engines(ctx)
	if err != nil {
		return nil, err
	}
	statuses := make([]ProviderStatus, len(engines))
	for i, e := range engines {
		statuses[i] = m.status(e)
	}
	err = m.store.View(ctx, func(tx store.Tx) error {
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

func (m *Monitor) status(p worker.Provider) ProviderStatus {
	status := ProviderStatus{
		Name:         p.Name,
		Healthy:      p.Error == "" && p.Capabilities.Usable,
		Default:      p.Name == m.provider,
		Isolates:     p.Capabilities.Isolates,
		Latency:      p.Latency,
		CheckedAt:    p.CheckedAt,
		Error:        p.Error,
		Capabilities: slices.Concat(always, stacyvm.Retype[string](p.Capabilities.Features)),
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

// Readiness says whether requests can be served: the store answers, the first recovery pass over
// its rows is done, and the disk has room. Anybody may ask.
func (m *Monitor) Readiness(ctx context.Context) Readiness {
	ctx, cancel := context.WithTimeout(ctx, readyWithin)
	defer cancel()
	r := Readiness{Dropped: m.audit.Dropped(), Problems: m.problems()}
	err := m.store.Ping(ctx)
	if r.StoreOK = err == nil; !r.StoreOK {
		r.Problems = append(r.Problems, "the database does not answer: "+messageOf(err))
	}
	r.Ready = r.StoreOK && m.recovered() && len(r.Problems) == 0
	_, err = m.workers(m.self)
	r.Alone = err != nil
	if r.StoreOK {
		r.Providers, _ = m.providers(ctx) // without them the answer is as good
	}
	return r
}
