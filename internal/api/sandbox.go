package api

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"

	"github.com/stacyvm/stacyvm/internal/control"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Spawn asks for a sandbox; the server fills in what is empty.
type Spawn struct {
	Image          string            `json:"image,omitempty" maxLength:"255" doc:"Name of the image."`
	Provider       string            `json:"provider,omitempty" maxLength:"64" doc:"Engine, such as gvisor."`
	MemoryMB       int               `json:"memory_mb,omitempty" doc:"Memory in MiB." minimum:"0"`
	VCPUs          int               `json:"vcpus,omitempty" minimum:"0"`
	DiskMB         int               `json:"disk_mb,omitempty" doc:"MiB that may be written." minimum:"0"`
	TTL            string            `json:"ttl,omitempty" maxLength:"64" doc:"Life as a duration of at least 1s." example:"30m"`
	Template       string            `json:"template,omitempty" maxLength:"128" doc:"Fills what the request leaves empty."`
	OwnerID        string            `json:"owner_id,omitempty" maxLength:"128" doc:"X-User-ID wins over it."`
	Metadata       map[string]string `json:"metadata,omitempty"`
	Env            map[string]string `json:"env,omitempty" doc:"Environment of every process; names of letters, digits and _ that begin with no digit."`
	NetworkMode    string            `json:"network_mode,omitempty" maxLength:"32" doc:"What the sandbox reaches; none is the default."`
	WorkerSelector map[string]string `json:"worker_selector,omitempty" doc:"Labels that its worker must have."`
	TenantID       any               `json:"tenant_id,omitempty" doc:"Ignored: the caller's credential sets the tenant."`
}

// request translates the body. user is the X-User-ID header.
func (s *Spawn) request(user string) (control.CreateRequest, error) {
	if s == nil {
		return control.CreateRequest{}, nil
	}
	ttl, err := lifetime("ttl", s.TTL)
	if err != nil {
		return control.CreateRequest{}, err
	}
	owner := s.OwnerID
	if user != "" {
		owner = "" // the principal's subject is the header's value
	}
	return control.CreateRequest{
		Image: s.Image, Provider: s.Provider, MemoryMB: s.MemoryMB, VCPUs: s.VCPUs, DiskMB: s.DiskMB, TTL: ttl,
		OwnerID: owner, Metadata: s.Metadata, NetworkMode: s.NetworkMode, Template: s.Template, Env: s.Env,
		Selector: s.WorkerSelector,
	}, nil
}

// hash is the same for bodies that ask for the same.
func (s *Spawn) hash() string {
	canonical := Spawn{}
	if s != nil {
		canonical = *s
		canonical.TenantID = nil
	}
	return hashOf(canonical)
}

// hashOf hashes a value's JSON, whose maps are sorted.
func hashOf(value any) string {
	text, _ := json.Marshal(value) // strings, numbers and maps of strings
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Sandbox is one disposable computer.
type Sandbox struct {
	ID            string            `json:"id"`
	State         string            `json:"state" enum:"creating,running,paused,unhealthy,expired,error,destroyed"`
	Reason        string            `json:"reason,omitempty" enum:"queued,create_failed,runtime_died,oom,killed,machine_rebooted,launcher_gone,expired,lost,no_answer,worker_stale,worker_unreachable" doc:"Why it is not well; queued while it waits for its worker to start it."`
	Detail        string            `json:"detail,omitempty" doc:"More of the reason, in a sentence: an exit status, a signal."`
	Since         *time.Time        `json:"since,omitempty" doc:"When it died or gave its last sign of life, as far as known."`
	QueuePlace    int               `json:"queue_place,omitempty" doc:"Its place in that line, 1 for the next one, as far as this server knows it."`
	Provider      string            `json:"provider"`
	Image         string            `json:"image"`
	MemoryMB      int               `json:"memory_mb"`
	VCPUs         int               `json:"vcpus"`
	DiskMB        int               `json:"disk_mb,omitempty"`
	OwnerID       string            `json:"owner_id,omitempty"`
	TenantID      string            `json:"tenant_id,omitempty"`
	VMID          string            `json:"vm_id,omitempty" doc:"The engine's own name for it, where it differs."`
	WorkerID      string            `json:"worker_id,omitempty"`
	Recovered     bool              `json:"recovered,omitempty" doc:"Found again after its record or owner was lost."`
	Unenforced    []string          `json:"unenforced,omitempty" doc:"Limits that the machine cannot hold."`
	CreatedAt     time.Time         `json:"created_at"`
	ExpiresAt     time.Time         `json:"expires_at"`
	Metadata      map[string]string `json:"metadata,omitempty"`
	PreviewDomain string            `json:"preview_domain,omitempty"`
}

func (a *api) sandboxOf(s stacyvm.Sandbox) Sandbox {
	return Sandbox{
		ID:            string(s.ID),
		State:         string(s.State),
		Reason:        string(s.Reason),
		Detail:        s.Detail,
		Since:         moment(s.Since),
		QueuePlace:    s.QueuePlace,
		Provider:      s.Provider,
		Image:         s.Image,
		MemoryMB:      s.Spec.MemoryMB,
		VCPUs:         s.Spec.VCPUs,
		DiskMB:        s.Spec.DiskMB,
		OwnerID:       s.OwnerID,
		TenantID:      s.TenantID,
		VMID:          s.RuntimeID,
		WorkerID:      string(s.WorkerID),
		Recovered:     s.Recovered,
		Unenforced:    stacyvm.Retype[string](s.Unenforced),
		CreatedAt:     s.CreatedAt.UTC(),
		ExpiresAt:     s.ExpiresAt.UTC(),
		Metadata:      s.Metadata,
		PreviewDomain: a.PreviewDomain,
	}
}

// moment is a time that may be missing.
func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

// Admission says whether a spawn would be let in now. The last three fields appear with
// detail=placement only.
type Admission struct {
	Allowed              bool   `json:"allowed"`
	Queueable            bool   `json:"queueable"`
	Reason               string `json:"reason,omitempty" doc:"Why not."`
	ActiveSandboxes      int    `json:"active_sandboxes"`
	MaxSandboxes         int    `json:"max_sandboxes" doc:"0: no limit."`
	ActiveOwnerSandboxes int    `json:"active_owner_sandboxes,omitempty"`
	MaxOwnerSandboxes    int    `json:"max_owner_sandboxes,omitempty"`
	MaxTTL               string `json:"max_ttl,omitempty"`

	SelectedWorkerID string `json:"selected_worker_id,omitempty"`
	EligibleWorkers  *int   `json:"eligible_workers,omitempty"`
	WorkerReason     string `json:"worker_reason,omitempty"`
}

func admissionOf(a stacyvm.Admission, placement bool) Admission {
	answer := Admission{
		Allowed:              a.Allowed,
		Queueable:            a.Queueable,
		Reason:               string(a.Reason),
		ActiveSandboxes:      a.Active,
		MaxSandboxes:         a.Max,
		ActiveOwnerSandboxes: a.OwnerActive,
		MaxOwnerSandboxes:    a.OwnerMax,
		MaxTTL:               durationText(a.MaxTTL),
	}
	if placement {
		answer.SelectedWorkerID = string(a.SelectedWorker)
		answer.EligibleWorkers = &a.EligibleWorkers
		answer.WorkerReason = a.WorkerReason
	}
	return answer
}
