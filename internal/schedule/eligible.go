package schedule

import (
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Eligible reports whether a worker can take the sandbox.
func Eligible(spec stacyvm.Spec, c Candidate) bool { return judge(spec, &c) == fits }

// Serves reports whether a worker has an engine; a worker that names none has them all.
func Serves(w stacyvm.Worker, provider string) bool {
	return len(w.Providers) == 0 || slices.Contains(w.Providers, provider)
}

// Callable reports whether a worker names an address that control planes can call it at.
func Callable(w stacyvm.Worker) bool {
	u, err := url.Parse(w.Capacity.RPCURL)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != ""
}

// verdict is why a worker cannot take a sandbox.
type verdict int

// The lasting reasons come first: waiting does not help against them. The last ones tell most
// about what could be done.
const (
	fits verdict = iota
	otherEngine
	otherLabels
	tooSmall
	away
	silent
	full
	unreachable
)

func judge(spec stacyvm.Spec, c *Candidate) verdict {
	has, used := &c.Worker.Capacity, &c.Used
	over := func(used, more, limit int) bool { return limit > 0 && used+more > limit }
	switch {
	case !Serves(c.Worker, spec.Provider):
		return otherEngine
	case missingLabel(spec, c) != "":
		return otherLabels
	case over(0, spec.MemoryMB, has.MemoryMB) || over(0, spec.VCPUs, has.VCPUs):
		return tooSmall
	case c.Worker.Status != stacyvm.WorkerOnline:
		return away
	case c.Age > stacyvm.WorkerStaleAfter:
		return silent
	case over(used.Sandboxes, 1, has.MaxSandboxes) || over(used.MemoryMB, spec.MemoryMB, has.MemoryMB) || over(used.VCPUs, spec.VCPUs, has.VCPUs):
		return full
	case !c.Reachable:
		return unreachable
	}
	return fits
}

// missingLabel is the first label, by name, that the sandbox asks for and the worker does not
// have.
func missingLabel(spec stacyvm.Spec, c *Candidate) string {
	missing := ""
	for key, value := range spec.Selector {
		if has, ok := c.Worker.Capacity.Labels[key]; (!ok || has != value) && (missing == "" || key < missing) {
			missing = key
		}
	}
	return missing
}

// told is how many workers a reason names.
const told = 16

// none is the choice when nobody is eligible.
func none(spec stacyvm.Spec, candidates []Candidate) Choice {
	if len(candidates) == 0 {
		return Choice{Reason: "no worker is registered", Passing: true}
	}
	var choice Choice
	var reasons []string
	for i := range candidates {
		c := &candidates[i]
		why := judge(spec, c)
		choice.Unreachable = choice.Unreachable || why == unreachable
		choice.Passing = choice.Passing || why > tooSmall
		if i < told {
			reasons = append(reasons, string(c.Worker.ID)+" "+explain(why, spec, c))
		}
	}
	if more := len(candidates) - told; more > 0 {
		reasons = append(reasons, fmt.Sprintf("and %d more", more))
	}
	choice.Reason = strings.Join(reasons, "; ")
	return choice
}

func explain(why verdict, spec stacyvm.Spec, c *Candidate) string {
	has := c.Worker.Capacity
	switch why {
	case otherEngine:
		return fmt.Sprintf("has no provider %q", spec.Provider)
	case otherLabels:
		key := missingLabel(spec, c)
		return fmt.Sprintf("has no label %s=%s", key, spec.Selector[key])
	case tooSmall:
		return fmt.Sprintf("is too small (%d MiB, %d processors)", has.MemoryMB, has.VCPUs)
	case away:
		return "is " + string(c.Worker.Status)
	case silent:
		return "sends no heartbeat"
	case full:
		return "is full (" + of(
			c.Used.Sandboxes,
			has.MaxSandboxes,
			"sandboxes",
		) + ", " + of(
			c.Used.MemoryMB,
			has.MemoryMB,
			"MiB",
		) +
			", " + of(
			c.Used.VCPUs,
			has.VCPUs,
			"processors",
		) + ")"
	case unreachable:
		return "has no RPC address"
	case fits:
	}
	return "can take it"
}

// of names how much of a measure is in use.
func of(used, limit int, unit string) string {
	if limit == 0 {
		return fmt.Sprintf("%d %s", used, unit)
	}
	return fmt.Sprintf("%d of %d %s", used, limit, unit)
}
