// Package schedule decides on which worker a new sandbox runs. It is pure: it asks nobody and remembers nothing, so that
// the same input gives the same answer on every control plane.
package schedule

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Candidate is a worker with what is known of its load.
type Candidate struct {
	Worker stacyvm.Worker
	Active int           // sandboxes that it has now
	Age    time.Duration // of its last heartbeat, by the database's clock
	Local  bool          // it is in the process that asks; any other must be reached over the network
}

// Choice is where a sandbox goes. Worker is empty when none is eligible; Reason then says why each was refused.
type Choice struct {
	Worker   stacyvm.WorkerID
	Eligible int
	Reason   string
}

// Pick takes the eligible worker with the fewest sandboxes, and of equals the one whose id sorts first.
func Pick(spec stacyvm.Spec, candidates []Candidate) Choice {
	var choice Choice
	var refused []string
	least := 0
	for _, c := range candidates {
		if why := refusal(spec, c); why != "" {
			refused = append(refused, fmt.Sprintf("%s %s", c.Worker.ID, why))
			continue
		}
		choice.Eligible++
		if choice.Worker == "" || c.Active < least || c.Active == least && c.Worker.ID < choice.Worker {
			choice.Worker, least = c.Worker.ID, c.Active
		}
	}
	switch {
	case choice.Worker != "":
	case len(candidates) == 0:
		choice.Reason = "no worker is registered"
	default:
		slices.Sort(refused)
		choice.Reason = strings.Join(refused, "; ")
	}
	return choice
}

// refusal says why a worker cannot take the sandbox; empty when it can.
func refusal(spec stacyvm.Spec, c Candidate) string {
	switch {
	case c.Worker.Status != "online":
		return "is " + c.Worker.Status
	case c.Age > stacyvm.WorkerStaleAfter:
		return "sends no heartbeat"
	case !c.Local && c.Worker.Capacity.RPCURL == "":
		return "has no RPC address"
	case !Serves(c.Worker, spec.Provider):
		return fmt.Sprintf("has no provider %q", spec.Provider)
	case c.Worker.Capacity.MaxSandboxes > 0 && c.Active >= c.Worker.Capacity.MaxSandboxes:
		return fmt.Sprintf("is full (%d sandboxes)", c.Active)
	}
	return ""
}

// Serves reports whether a worker has an engine; a worker that names none has them all.
func Serves(w stacyvm.Worker, provider string) bool {
	return len(w.Providers) == 0 || slices.Contains(w.Providers, provider)
}
