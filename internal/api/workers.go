package api

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/stacyvm/stacyvm/internal/control/cluster"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Capacity is what a worker offers. What else a worker says is not kept.
type Capacity struct {
	_            struct{} `additionalProperties:"true"`
	MaxSandboxes int      `json:"max_sandboxes,omitempty" minimum:"0" doc:"0: no limit."`
	MemoryMB     int      `json:"memory_mb,omitempty" minimum:"0" doc:"MiB that may be promised to sandboxes; 0: no limit."`
	VCPUs        int      `json:"vcpus,omitempty" minimum:"0" doc:"Likewise."`
	// Additive: a worker of an earlier version does not say it.
	ParallelCreates int               `json:"parallel_creates,omitempty" minimum:"0" doc:"How many sandboxes it starts at a time; 0: any number."`
	RPCURL          string            `json:"rpc_url,omitempty" maxLength:"1024" doc:"Where control planes call it; without one none can."`
	PreviewDomain   string            `json:"preview_domain,omitempty" maxLength:"253"`
	Labels          map[string]string `json:"labels,omitempty" maxProperties:"64" doc:"What sandboxes may ask for."`
	Drained         bool              `json:"drained,omitempty" doc:"By an operator; what a worker says here does not count."`
}

// Worker is one machine that runs sandboxes.
type Worker struct {
	ID            string    `json:"id"`
	Hostname      string    `json:"hostname"`
	Status        string    `json:"status" doc:"starting, online, draining, offline or unhealthy."`
	Stale         bool      `json:"stale" doc:"Its last heartbeat is older than two minutes."`
	Providers     []string  `json:"providers"`
	Capabilities  []string  `json:"capabilities"`
	Capacity      Capacity  `json:"capacity"`
	Problems      []string  `json:"problems,omitempty" doc:"With its machine, such as a full disk."`
	LastHeartbeat time.Time `json:"last_heartbeat"`
	CreatedAt     time.Time `json:"created_at"`
	UpdatedAt     time.Time `json:"updated_at"`
}

func workerOf(w cluster.Worker) Worker {
	c := w.Capacity
	return Worker{
		ID: string(
			w.ID,
		),
		Hostname:     w.Hostname,
		Status:       string(w.Status),
		Stale:        w.Stale,
		Providers:    each(w.Providers, same[string]),
		Capabilities: each(w.Capabilities, same[string]),
		Capacity: Capacity{
			MaxSandboxes:    c.MaxSandboxes,
			MemoryMB:        c.MemoryMB,
			VCPUs:           c.VCPUs,
			ParallelCreates: c.ParallelCreates,
			RPCURL:          c.RPCURL,
			PreviewDomain:   c.PreviewDomain,
			Labels:          c.Labels,
			Drained:         c.Drained,
		},
		Problems:      w.Problems,
		LastHeartbeat: w.LastHeartbeat.UTC(),
		CreatedAt:     w.CreatedAt.UTC(),
		UpdatedAt:     w.UpdatedAt.UTC(),
	}
}

// WorkerPath is the input of routes below one worker.
type WorkerPath struct {
	Worker string `path:"worker" pattern:"^[A-Za-z0-9._-]{1,64}$" patternDescription:"1 to 64 letters, digits, ., - or _" doc:"The worker's id." example:"worker-a"`
}

func (p WorkerPath) id() stacyvm.WorkerID { return stacyvm.WorkerID(p.Worker) }

const tagWorkers = "workers"

func (a *api) workerRoutes() {
	for _, at := range []struct{ path, id string }{{"/workers", ""}, {"/admin/workers", "admin-"}} {
		register(
			a,
			route{
				method:  http.MethodGet,
				path:    at.path,
				id:      at.id + "list-workers",
				tag:     tagWorkers,
				summary: "List the workers",
			},
			a.workers,
		)
		register(a, route{method: http.MethodGet, path: at.path + "/{worker}", id: at.id + "worker", tag: tagWorkers,
			summary: "Look one worker up", errors: []int{404}}, a.worker)
	}
	const one = "/admin/workers/{worker}"
	register(a, route{method: http.MethodDelete, path: one, id: "delete-worker", tag: tagWorkers,
		summary: "Forget a worker that is gone for good", errors: []int{404, 409}}, a.deleteWorker)
	register(a, route{method: http.MethodPost, path: one + "/drain", id: "drain-worker", tag: tagWorkers,
		summary: "Place nothing new on a worker", errors: []int{404}}, a.drainWorker)
	register(a, route{method: http.MethodPost, path: one + "/resume", id: "resume-worker", tag: tagWorkers,
		summary: "Place sandboxes on a worker again", errors: []int{404}}, a.resumeWorker)
	register(a, route{method: http.MethodPost, path: one + "/heartbeat", id: "admin-heartbeat", tag: tagWorkers,
		summary: "Tell in a worker's place that it lives", errors: []int{404, 409}}, a.heartbeat)
	register(
		a,
		route{
			method:  http.MethodPost,
			path:    one + "/leases/{resource}/renew",
			id:      "admin-renew-lease",
			tag:     tagWorkers,
			summary: "Extend a lease in a worker's place",
			errors:  []int{409},
		},
		a.renewLease,
	)
	const own = "/worker/{worker}"
	register(a, route{method: http.MethodPost, path: own + "/heartbeat", id: "heartbeat", tag: tagWorkers,
		summary: "Tell that this worker lives, or register its process", errors: []int{404, 409}}, a.heartbeat)
	register(a, route{method: http.MethodPost, path: own + "/leases/renew", id: "renew-leases", tag: tagWorkers,
		summary: "Extend every lease of this worker's process", errors: []int{404, 409}}, a.renewLeases)
	register(
		a,
		route{method: http.MethodPost, path: own + "/leases/{resource}/renew", id: "renew-lease", tag: tagWorkers,
			summary: "Extend one lease of this worker", errors: []int{409}},
		a.renewLease,
	)
	register(a, route{method: http.MethodGet, path: own + "/leases/{resource}", id: "lease", tag: tagWorkers,
		summary: "Tell under which fence this worker holds a sandbox", errors: []int{404}}, a.lease)
}

func (a *api) workers(ctx context.Context, _ *struct{}) (*body[[]Worker], error) {
	list, err := a.Service.Workers(ctx)
	return answered(each(list, workerOf), err)
}

func (a *api) worker(ctx context.Context, in *WorkerPath) (*body[Worker], error) {
	w, err := a.Service.Worker(ctx, in.id())
	return answered(workerOf(w), err)
}

type forgetInput struct {
	WorkerPath
	Force bool `query:"force" doc:"Also one that is online or has sandboxes, which end as lost."`
}

func (a *api) deleteWorker(ctx context.Context, in *forgetInput) (*body[Status], error) {
	return done("deleted", a.Service.DeleteWorker(ctx, in.id(), in.Force))
}

func (a *api) drainWorker(ctx context.Context, in *WorkerPath) (*body[Worker], error) {
	w, err := a.Service.DrainWorker(ctx, in.id())
	return answered(workerOf(w), err)
}

func (a *api) resumeWorker(ctx context.Context, in *WorkerPath) (*body[Worker], error) {
	w, err := a.Service.ResumeWorker(ctx, in.id())
	return answered(workerOf(w), err)
}

type heartbeatInput struct {
	WorkerPath
	Body struct {
		_            struct{} `additionalProperties:"true"`
		Session      string   `json:"session,omitempty" maxLength:"128" doc:"Random per process; none: of no process that acts."`
		Register     bool     `json:"register,omitempty" doc:"Makes the session the one that counts, and gives it the worker's sandboxes."`
		Hostname     string   `json:"hostname,omitempty" maxLength:"255"`
		Status       string   `json:"status,omitempty" maxLength:"16" doc:"starting, online (default), draining, offline or unhealthy."`
		Providers    []string `json:"providers,omitempty" maxItems:"64"`
		Capabilities []string `json:"capabilities,omitempty" maxItems:"64"`
		Capacity     Capacity `json:"capacity,omitzero"`
		Problems     []string `json:"problems,omitempty" maxItems:"16" doc:"With its machine, such as a full disk, in sentences."`
	}
}

func (a *api) heartbeat(ctx context.Context, in *heartbeatInput) (*body[Worker], error) {
	b, c := in.Body, in.Body.Capacity
	w, err := a.Service.Heartbeat(ctx, cluster.Beat{Register: b.Register, Worker: stacyvm.Worker{
		ID: in.id(), Hostname: b.Hostname, Status: stacyvm.WorkerStatus(b.Status), Session: b.Session,
		Providers: slices.Concat([]string{}, b.Providers), Capabilities: slices.Concat([]string{}, b.Capabilities),
		Capacity: stacyvm.Capacity{
			MaxSandboxes:    c.MaxSandboxes,
			MemoryMB:        c.MemoryMB,
			VCPUs:           c.VCPUs,
			ParallelCreates: c.ParallelCreates,
			RPCURL:          c.RPCURL,
			PreviewDomain:   c.PreviewDomain,
			Labels:          c.Labels,
		},
		Problems: b.Problems,
	}})
	return answered(workerOf(w), err)
}

// Lease says who acts for a sandbox.
type Lease struct {
	ResourceID  string    `json:"resource_id"`
	HolderID    string    `json:"holder_id"`
	Epoch       string    `json:"epoch" doc:"Raised with each owner; a whole number."`
	Incarnation string    `json:"incarnation,omitempty" doc:"Of the cluster; a fence is both, and this counts first."`
	Generation  int64     `json:"generation" doc:"Raised with each change of the lease."`
	ExpiresAt   time.Time `json:"expires_at"`
}

// LeaseAnswer is one lease.
type LeaseAnswer struct {
	Lease Lease `json:"lease"`
}

// Renewal is every lease of a worker's process.
type Renewal struct {
	Cluster     string  `json:"cluster"`
	Incarnation string  `json:"incarnation"`
	Leases      []Lease `json:"leases"`
	Lapsed      int     `json:"lapsed" doc:"How many had run out and are still to be taken again: while it is not 0, renew once more at once."`
}

func leaseOf(l stacyvm.Lease) Lease {
	return Lease{
		ResourceID: l.Resource,
		HolderID:   string(l.Holder),
		Epoch:      strconv.FormatInt(l.Epoch, 10),
		Generation: l.Generation,
		ExpiresAt:  l.ExpiresAt.UTC(),
	}
}

type renewalInput struct {
	WorkerPath
	Body struct {
		Session  string `json:"session" minLength:"1" maxLength:"128"`
		Handover bool   `json:"handover,omitempty" doc:"The process ends: the leases live until the next one has started."`
	}
}

func (a *api) renewLeases(ctx context.Context, in *renewalInput) (*body[Renewal], error) {
	renewal, err := a.Service.RenewLeases(ctx, in.id(), in.Body.Session, in.Body.Handover)
	return answered(
		Renewal{
			renewal.Cluster.ID,
			strconv.FormatInt(renewal.Cluster.Incarnation, 10),
			each(renewal.Leases, leaseOf),
			renewal.Lapsed,
		},
		err,
	)
}

// LeasePath is the input of routes of one lease.
type LeasePath struct {
	WorkerPath
	Resource string `path:"resource" pattern:"^[A-Za-z0-9._-]{1,64}$" patternDescription:"1 to 64 letters, digits, ., - or _" doc:"What is leased: a sandbox." example:"sb-0123456789abcdef01234567"`
}

type renewInput struct {
	LeasePath
	Body struct {
		TTL string `json:"ttl" maxLength:"64" doc:"From now on." example:"30s"`
	}
}

func (a *api) renewLease(ctx context.Context, in *renewInput) (*body[LeaseAnswer], error) {
	ttl, err := lifetime("ttl", in.Body.TTL)
	if err != nil {
		return nil, err
	}
	if ttl == nil {
		ttl = new(time.Duration)
	}
	lease, err := a.Service.RenewLease(ctx, in.id(), in.Resource, *ttl)
	return answered(LeaseAnswer{leaseOf(lease)}, err)
}

func (a *api) lease(ctx context.Context, in *LeasePath) (*body[LeaseAnswer], error) {
	lease, fence, err := a.Service.WorkerLease(ctx, in.id(), in.Resource)
	shown := leaseOf(lease)
	shown.Incarnation = strconv.FormatInt(fence.Incarnation, 10)
	return answered(LeaseAnswer{shown}, err)
}
