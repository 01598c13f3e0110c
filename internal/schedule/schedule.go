// Package schedule decides on which worker a new sandbox runs. It is pure: it asks nobody and
// remembers nothing, so that the same input gives the same answer on every control plane.
package schedule

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Candidate is a worker with what is known of its load.
type Candidate struct {
	Worker stacyvm.Worker
	Used   stacyvm.Usage // what its sandboxes take now
	Age    time.Duration // of its last heartbeat, by the database's clock
	// Reachable: who asks can call it, because it is in the same process or has an address that
	// Callable accepts.
	Reachable bool
}

// Choice is where a sandbox goes. Worker is empty when none is eligible; Reason then says why each
// was refused.
type Choice struct {
	Worker stacyvm.WorkerID
	// Most is how many sandboxes the worker may turn out to have for it to be a good choice: with
	// this one it is then at most one such sandbox fuller than the lightest would be. What is
	// known of a worker may be late.
	Most     int
	Eligible int
	Reason   string
	// Unreachable: none is eligible, and at least one would be if it could be called.
	Unreachable bool
	// Passing: none is eligible, and waiting may help, because at least one is only full or away.
	Passing bool
}

// Pick chooses among the eligible workers. A worker is as full as the fullest of its measures
// (count, memory, processors). All that are lighter now than the lightest would be with this
// sandbox count as equally good, and the lightest sixteenth in any case; of them seed draws two,
// and the one that will be less full takes it. So load stays within one sandbox of even for
// whoever sees it as it is, and those who see it a little late, each with other seeds, do not all
// choose the same worker.
func Pick(spec stacyvm.Spec, seed uint64, candidates []Candidate) Choice {
	eligible := make([]scored, 0, len(candidates))
	whole := reference(candidates)
	takes := spec.Usage()
	for i := range candidates {
		if c := &candidates[i]; judge(spec, c) == fits {
			eligible = append(eligible, scored{i, fullness(c, c.Used, whole), fullness(c, c.Used.Plus(takes), whole)})
		}
	}
	if len(eligible) == 0 {
		return none(spec, candidates)
	}
	eligible = sound(eligible, candidates)
	choice := Choice{Eligible: len(eligible)}
	random := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // nobody gains by guessing it
	light, least := lightest(eligible, random)
	drawn := drawn(light, random)
	choice.Worker = candidates[drawn.at].Worker.ID
	choice.Most = math.MaxInt
	if len(eligible) > 1 {
		choice.Most = candidates[drawn.at].Used.Sandboxes + spare(drawn, least)
	}
	return choice
}

// sound leaves out workers whose machines have a problem, such as a full disk: they would refuse,
// or take what others take better. Where all have one, each is as good, and says itself what it
// cannot do.
func sound(eligible []scored, candidates []Candidate) []scored {
	troubled := func(s scored) bool { return len(candidates[s.at].Worker.Problems) > 0 }
	if !slices.ContainsFunc(eligible, func(s scored) bool { return !troubled(s) }) {
		return eligible
	}
	return slices.DeleteFunc(eligible, troubled)
}

// spare is how many sandboxes like the new one a worker may have that are not known, see
// Choice.Most.
func spare(s scored, least float64) int {
	step := s.after - s.before
	if step <= 0 { // it is fuller in a measure that the sandbox does not ask for
		return 0
	}
	return max(0, 1-int(math.Round((s.after-least)/step)))
}

// scored is an eligible candidate with its fullness before and after.
type scored struct {
	at            int
	before, after float64
}

// lightest gives those of which two are drawn, and how full the lightest will be; it changes the
// order of eligible.
func lightest(eligible []scored, random *rand.Rand) (drawable []scored, least float64) {
	least = eligible[0].after
	for _, s := range eligible {
		least = min(least, s.after)
	}
	light := 0
	for i, s := range eligible {
		if s.before < least || s.after == least {
			eligible[light], eligible[i] = eligible[i], eligible[light]
			light++
		}
	}
	if enough := len(eligible) / 16; light < enough {
		random.Shuffle(len(eligible), func(i, j int) { eligible[i], eligible[j] = eligible[j], eligible[i] })
		slices.SortStableFunc(eligible, func(a, b scored) int { return cmp.Compare(a.after, b.after) })
		light = enough
	}
	return eligible[:light], least
}

// drawn draws two and gives the one that will be less full.
func drawn(among []scored, random *rand.Rand) scored {
	if len(among) == 1 {
		return among[0]
	}
	first, second := random.IntN(len(among)), random.IntN(len(among)-1)
	if second >= first {
		second++
	}
	if among[second].after < among[first].after {
		first = second
	}
	return among[first]
}

// reference is the capacity by which a worker without a limit is measured: the largest of any.
// Where nobody has a limit sandboxes are counted.
func reference(candidates []Candidate) stacyvm.Capacity {
	var whole stacyvm.Capacity
	for i := range candidates {
		c := &candidates[i].Worker.Capacity
		whole.MaxSandboxes, whole.MemoryMB, whole.VCPUs = max(
			whole.MaxSandboxes,
			c.MaxSandboxes,
		), max(
			whole.MemoryMB,
			c.MemoryMB,
		), max(
			whole.VCPUs,
			c.VCPUs,
		)
	}
	if whole.MaxSandboxes+whole.MemoryMB+whole.VCPUs == 0 {
		whole.MaxSandboxes = 1
	}
	return whole
}

// fullness is the largest share of any measure that is in use.
func fullness(c *Candidate, used stacyvm.Usage, whole stacyvm.Capacity) float64 {
	has := &c.Worker.Capacity
	return max(
		share(used.Sandboxes, has.MaxSandboxes, whole.MaxSandboxes),
		share(used.MemoryMB, has.MemoryMB, whole.MemoryMB),
		share(used.VCPUs, has.VCPUs, whole.VCPUs),
	)
}

func share(used, limit, whole int) float64 {
	if limit == 0 {
		limit = whole
	}
	if limit == 0 {
		return 0
	}
	return float64(used) / float64(limit)
}
