package remote

import (
	"encoding/json"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
	workerv1 "github.com/stacyvm/stacyvm/proto/worker/v1"
)

func refToWire(ref stacyvm.Ref) *workerv1.Ref {
	return &workerv1.Ref{SandboxId: string(ref.ID), Incarnation: ref.Fence.Incarnation, Epoch: ref.Fence.Epoch}
}

func refFromWire(ref *workerv1.Ref) stacyvm.Ref {
	return stacyvm.Ref{
		ID:    stacyvm.SandboxID(ref.GetSandboxId()),
		Fence: stacyvm.Fence{Incarnation: ref.GetIncarnation(), Epoch: ref.GetEpoch()},
	}
}

func makingToWire(r worker.CreateRequest) (*workerv1.Making, error) {
	spec, err := json.Marshal(r.Spec)
	if err != nil {
		return nil, err
	}
	return &workerv1.Making{
		Cluster: r.Cluster, Spec: spec, OwnerId: r.OwnerID, TenantId: r.TenantID, ExpiresUs: micros(r.ExpiresAt),
	}, nil
}

func makingFromWire(m *workerv1.Making) (worker.CreateRequest, error) {
	r := worker.CreateRequest{
		Cluster:   m.GetCluster(),
		OwnerID:   m.GetOwnerId(),
		TenantID:  m.GetTenantId(),
		ExpiresAt: moment(m.GetExpiresUs()),
	}
	if len(m.GetSpec()) == 0 {
		return r, nil
	}
	return r, json.Unmarshal(m.GetSpec(), &r.Spec)
}

func madeToWire(c worker.Created) *workerv1.Made {
	return &workerv1.Made{RuntimeId: c.RuntimeID, Unenforced: stacyvm.Retype[string](c.Unenforced)}
}

func madeFromWire(m *workerv1.Made) worker.Created {
	return worker.Created{RuntimeID: m.GetRuntimeId(), Unenforced: stacyvm.Retype[stacyvm.Limit](m.GetUnenforced())}
}

func runtimeToWire(r worker.Runtime) (*workerv1.Runtime, error) {
	making, err := makingToWire(r.Request)
	return &workerv1.Runtime{
		Ref: refToWire(stacyvm.Ref{ID: r.ID, Fence: r.Fence}), Cluster: r.Cluster,
		Healthy: r.Phase == worker.PhaseRunning, Phase: string(r.Phase),
		Cause: string(r.Cause.Reason), Detail: r.Cause.Detail, SinceUs: micros(r.Cause.Since),
		Making: making, Made: madeToWire(r.Created), CreatedUs: micros(r.CreatedAt), CheckedUs: micros(r.CheckedAt),
	}, err
}

func runtimeFromWire(r *workerv1.Runtime) (worker.Runtime, error) {
	ref := refFromWire(r.GetRef())
	request, err := makingFromWire(r.GetMaking())
	return worker.Runtime{
		ID:      ref.ID,
		Fence:   ref.Fence,
		Cluster: r.GetCluster(),
		Phase:   phaseFromWire(r),
		Cause: stacyvm.Cause{
			Reason: stacyvm.Reason(r.GetCause()),
			Detail: r.GetDetail(),
			Since:  moment(r.GetSinceUs()),
		},
		Request:   request,
		Created:   madeFromWire(r.GetMade()),
		CreatedAt: moment(r.GetCreatedUs()),
		CheckedAt: moment(r.GetCheckedUs()),
	}, err
}

// phaseFromWire reads the phase, also of a worker that says only that a runtime is healthy.
func phaseFromWire(r *workerv1.Runtime) worker.Phase {
	switch phase := worker.Phase(r.GetPhase()); {
	case phase != "":
		return phase
	case r.GetHealthy():
		return worker.PhaseRunning
	}
	return worker.PhaseUnknown
}

func providerToWire(p worker.Provider) *workerv1.Provider {
	c := p.Capabilities
	sent := &workerv1.Provider{
		Name:      p.Name,
		IsDefault: p.Default,
		Usable:    c.Usable,
		Isolates:  c.Isolates,
		Survives:  c.Survives,
		Enforces:  stacyvm.Retype[string](c.Enforces),
		Features:  stacyvm.Retype[string](c.Features),
		Version:   c.Version,
		Error:     p.Error,
		LatencyUs: p.Latency.Microseconds(),
		CheckedUs: micros(p.CheckedAt),
		Runtimes:  int64(p.Runtimes),
	}
	for _, problem := range c.Problems {
		sent.Problems = append(sent.Problems, &workerv1.Problem{What: problem.What, Fix: problem.Fix})
	}
	return sent
}

func providerFromWire(p *workerv1.Provider) worker.Provider {
	read := worker.Provider{
		Name:    p.GetName(),
		Default: p.GetIsDefault(),
		Error:   p.GetError(),
		Latency: time.Duration(
			p.GetLatencyUs(),
		) * time.Microsecond,
		CheckedAt: moment(p.GetCheckedUs()),
		Runtimes:  int(p.GetRuntimes()),
	}
	c := &read.Capabilities
	c.Usable, c.Isolates, c.Survives, c.Version = p.GetUsable(), p.GetIsolates(), p.GetSurvives(), p.GetVersion()
	c.Enforces = stacyvm.Retype[stacyvm.Limit](p.GetEnforces())
	c.Features = stacyvm.Retype[stacyvm.Feature](p.GetFeatures())
	for _, problem := range p.GetProblems() {
		c.Problems = append(c.Problems, struct{ What, Fix string }{problem.GetWhat(), problem.GetFix()})
	}
	return read
}

// micros gives Unix microseconds; 0 is the zero time.
func micros(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMicro()
}

func moment(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(us).UTC()
}
