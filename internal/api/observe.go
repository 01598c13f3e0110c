package api

import (
	"context"
	"net/http"
	"reflect"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

type logsInput struct {
	SandboxPath
	Lines int `query:"lines" default:"100" minimum:"1" maximum:"10000"`
}

// Stats is a sandbox's use of resources; only Supported is set where it cannot be told.
type Stats struct {
	Supported      bool     `json:"supported"`
	CPUPercent     *float64 `json:"cpu_pct,omitempty" doc:"Of one processor, since the last question; at the first one since the create."`
	MemoryBytes    *uint64  `json:"mem_bytes,omitempty"`
	MemoryLimit    *uint64  `json:"mem_limit_bytes,omitempty"`
	Processes      *int     `json:"processes,omitempty"`
	DiskBytes      *uint64  `json:"disk_bytes,omitempty"`
	DiskLimitBytes *uint64  `json:"disk_limit_bytes,omitempty"`
}

func (a *api) observeRoutes() {
	register(a, route{method: http.MethodGet, path: "/sandboxes/{id}/logs", id: "logs", tag: tagSandboxes,
		summary: "The last lines that the sandbox's processes printed", errors: []int{404, 409},
		responses: a.listOf("The lines.", reflect.TypeFor[[]string]())}, a.logs)
	register(a, route{method: http.MethodGet, path: "/sandboxes/{id}/stats", id: "stats", tag: tagSandboxes,
		summary: "A sandbox's use of resources", errors: []int{404, 409}}, a.stats)
}

func (a *api) logs(ctx context.Context, in *logsInput) (*written, error) {
	lines, err := a.Service.Logs(ctx, in.sandbox(), in.Lines)
	return listed(lines, err, same)
}

func (a *api) stats(ctx context.Context, in *SandboxPath) (*body[Stats], error) {
	sandbox, err := a.Service.Sandbox(ctx, in.sandbox())
	if err != nil {
		return nil, err
	}
	s, err := a.Service.Stats(ctx, in.sandbox())
	if stacyvm.CodeOf(err) == stacyvm.CodeUnsupported {
		return &body[Stats]{Stats{}}, nil
	}
	if err != nil {
		return nil, err
	}
	percent := a.usage.percent(sandbox.ID, sample{time.Now(), s.CPUTime}, sandbox.CreatedAt)
	return &body[Stats]{Stats{
		Supported: true, CPUPercent: &percent, MemoryBytes: &s.MemoryBytes, MemoryLimit: &s.MemoryLimitBytes,
		Processes: &s.Processes, DiskBytes: &s.DiskBytes, DiskLimitBytes: &s.DiskLimitBytes,
	}}, nil
}

// maxSamples bounds usage; what does not fit is measured from the create on.
const maxSamples = 4096

// usage remembers when each sandbox was asked last, so that a share of time needs one sample per
// question.
type usage struct {
	mu   sync.Mutex
	last map[stacyvm.SandboxID]sample
}

type sample struct {
	at  time.Time
	cpu time.Duration
}

// percent gives the use of processors between the last sample, or created, and now.
func (u *usage) percent(id stacyvm.SandboxID, now sample, created time.Time) float64 {
	u.mu.Lock()
	defer u.mu.Unlock()
	before, ok := u.last[id]
	if !ok || now.cpu < before.cpu { // a sandbox that was restored counts anew
		before = sample{at: created}
	}
	if u.last == nil || len(u.last) >= maxSamples {
		u.last = map[stacyvm.SandboxID]sample{}
	}
	u.last[id] = now
	passed := now.at.Sub(before.at)
	if passed <= 0 {
		return 0
	}
	return 100 * float64(now.cpu-before.cpu) / float64(passed)
}
