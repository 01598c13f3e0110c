package control

import (
	"maps"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Bounds of a create request. The lower ones are what a guest needs to start at all.
const (
	minMemoryMB, maxMemoryMB = 64, 1 << 20
	minVCPUs, maxVCPUs       = 1, 256
	minDiskMB, maxDiskMB     = 16, 1 << 20

	maxImage         = 255
	maxOwner         = 128
	maxMetadata      = 64 // entries
	maxMetadataKey   = 128
	maxMetadataValue = 2048
	maxEnv           = 256 // entries
	maxEnvBytes      = 64 << 10
	maxSelector      = 16 // labels
)

// plan gives the row that a create request asks for, with every default filled in and every field
// checked. Limits are checked later, in the transaction that counts. CodeInvalid names the field;
// CodeNotFound: no such template; CodeUnsupported.
func (s *Service) plan(caller stacyvm.Principal, request CreateRequest) (stacyvm.Sandbox, error) {
	d := s.defaults
	spec := stacyvm.Spec{
		Image:    or(request.Image, d.Image),
		Provider: or(request.Provider, d.Provider),
		MemoryMB: or(request.MemoryMB, d.MemoryMB),
		VCPUs:    or(request.VCPUs, d.VCPUs),
		DiskMB:   or(request.DiskMB, d.DiskMB),
		TTL:      d.TTL,
		Network:  stacyvm.NetworkNone,
		Env:      maps.Clone(request.Env),
		Selector: maps.Clone(request.Selector),
	}
	owner := or(request.OwnerID, caller.Subject)
	if request.TTL != nil {
		spec.TTL = *request.TTL
	}
	if request.Template != "" {
		return stacyvm.Sandbox{}, stacyvm.Errorf(stacyvm.CodeNotFound, "template %.64q does not exist",
			request.Template)
	}
	for _, err := range []error{
		checkImage(spec.Image),
		inRange("memory_mb", spec.MemoryMB, minMemoryMB, maxMemoryMB),
		inRange("vcpus", spec.VCPUs, minVCPUs, maxVCPUs),
		inRange("disk_mb", spec.DiskMB, minDiskMB, maxDiskMB),
		checkTTL(spec.TTL),
		checkOwner(owner),
		checkMetadata(request.Metadata),
		checkNetwork(request.NetworkMode),
		checkEnv(spec.Env),
		stacyvm.CheckLabels("worker_selector", spec.Selector, maxSelector),
	} {
		if err != nil {
			return stacyvm.Sandbox{}, err
		}
	}
	return stacyvm.Sandbox{
		ID: stacyvm.NewSandboxID(), State: stacyvm.StateCreating, Desired: stacyvm.DesiredRunning,
		Provider: spec.Provider, Image: spec.Image, Spec: spec,
		OwnerID: owner, TenantID: caller.Tenant, Metadata: maps.Clone(request.Metadata),
	}, nil
}

// or gives value, or fallback for the zero value.
func or[T comparable](value, fallback T) T {
	var zero T
	if value == zero {
		return fallback
	}
	return value
}

func inRange(field string, value, low, high int) error {
	if value < low || value > high {
		return stacyvm.Invalid(field, "%d is not between %d and %d", value, low, high)
	}
	return nil
}

func checkTTL(ttl time.Duration) error {
	if ttl < time.Second {
		return stacyvm.Invalid("ttl", "must be at least 1s, such as 30m")
	}
	return nil
}

func checkImage(image string) error {
	if image == "" || len(image) > maxImage || !stacyvm.PlainWord(image) {
		return stacyvm.Invalid("image", "must be a name of 1 to %d characters without white space", maxImage)
	}
	return nil
}

func checkOwner(owner string) error {
	if utf8.RuneCountInString(owner) > maxOwner || !stacyvm.PlainWord(owner) || strings.ContainsAny(owner, `/\`) {
		return stacyvm.Invalid("owner_id",
			"must have at most %d characters and no white space, control character, / or \\", maxOwner)
	}
	return nil
}

func checkMetadata(metadata map[string]string) error {
	if len(metadata) > maxMetadata {
		return stacyvm.Invalid("metadata", "%d entries are over %d", len(metadata), maxMetadata)
	}
	for key, value := range metadata {
		switch {
		case key == "" || len(key) > maxMetadataKey || !storable(key):
			return stacyvm.Invalid("metadata", "a key must be text of 1 to %d bytes", maxMetadataKey)
		case len(value) > maxMetadataValue || !storable(value):
			return stacyvm.Invalid("metadata", "the value of %q must be text of at most %d bytes",
				key, maxMetadataValue)
		}
	}
	return nil
}

// storable reports whether every store can keep the text.
func storable(text string) bool { return utf8.ValidString(text) && !strings.Contains(text, "\x00") }

func checkNetwork(mode string) error {
	switch mode {
	case "", string(stacyvm.NetworkNone):
		return nil
	case "egress":
		return stacyvm.Errorf(stacyvm.CodeUnsupported,
			"network_mode: egress is not available on this server; only none is")
	}
	return stacyvm.Invalid("network_mode", "%.32q is unknown; allowed is none", mode)
}

// envName matches the names that a shell passes on; dash drops every other variable.
var envName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

func checkEnv(env map[string]string) error {
	if len(env) > maxEnv {
		return stacyvm.Invalid("env", "%d entries are over %d", len(env), maxEnv)
	}
	total := 0
	for key, value := range env {
		total += len(key) + len(value)
		switch {
		case !envName.MatchString(key):
			return stacyvm.Invalid("env",
				"%.64q is no name that a shell keeps: letters, digits and _, no digit first", key)
		case !storable(value):
			return stacyvm.Invalid("env", "the value of %.64q must be UTF-8 text without zero bytes", key)
		}
	}
	if total > maxEnvBytes {
		return stacyvm.Invalid("env", "%d bytes are over %d", total, maxEnvBytes)
	}
	return nil
}
