package config

import (
	"fmt"
	"slices"
	"strings"
)

// unbuilt lists every key that this build reads and does not act on. Who builds a feature deletes
// its lines here, and the marks in docs/configuration.md and stacyvm.example.yaml that the tests
// compare with this table.
var unbuilt = []unbuiltKeys{
	{prefix: "providers.docker.enabled", unsafe: true},
	{prefix: "providers.docker."},
	{prefix: "providers.firecracker.enabled", unsafe: true},
	{prefix: "providers.firecracker."},
	{prefix: "providers.e2b.enabled", unsafe: true},
	{prefix: "providers.e2b."},
	{prefix: "providers.custom.enabled", unsafe: true},
	{prefix: "providers.custom."},
	{prefix: "providers.proot.enabled", unsafe: true},
	{prefix: "providers.proot."},

	{prefix: "defaults.pool_size"},
	{prefix: "defaults.pool_template"},

	{prefix: "auth.oidc_", unsafe: true},

	// Who the caller is and its key are one thing as long as keys are the only credentials.
	{prefix: "rate_limit.key_by", unsafe: true, acts: []string{"api_key"}},
	{prefix: "rate_limit.bucket_ttl"},
	{prefix: "rate_limit.cleanup_interval"},

	{prefix: "pool.enabled", unsafe: true},
	{prefix: "pool."},
}

// unbuiltKeys is one row of the table: the keys that begin with prefix and with that of no earlier
// row.
type unbuiltKeys struct {
	prefix string
	// unsafe: an operator who sets it counts on a protection or a behaviour that is not there, so
	// that no server starts.
	unsafe bool
	// acts are values beside the default for which this build does what the key says.
	acts []string
}

// Unbuilt is a key that was set and that this build does not act on.
type Unbuilt struct {
	Key string
	// Unsafe: Load refuses it, because ignoring it would leave out a protection or a behaviour
	// that the operator counts on.
	Unsafe bool
}

// Unbuilt lists the keys that were set to something else than their default and on which this
// build does not act.
func (l *Loaded) Unbuilt() []Unbuilt {
	plain := Default()
	standard := keys(&plain)
	var found []Unbuilt
	for i, k := range keys(&l.Config) {
		row, ok := unbuiltRow(k.name)
		if ok && l.Sources[k.name] != fromDefault && !k.same(standard[i]) &&
			!slices.Contains(row.acts, k.field.String()) {
			found = append(found, Unbuilt{k.name, row.unsafe})
		}
	}
	return found
}

func unbuiltRow(name string) (unbuiltKeys, bool) {
	for _, row := range unbuilt {
		if strings.HasPrefix(name, row.prefix) {
			return row, true
		}
	}
	return unbuiltKeys{}, false
}

func (l *Loaded) refuseUnbuilt() error {
	var names []string
	for _, u := range l.Unbuilt() {
		if u.Unsafe {
			names = append(names, u.Key)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf(
		"%s: this build does not act on it, and ignoring it would be unsafe: remove it",
		strings.Join(names, ", "),
	)
}
