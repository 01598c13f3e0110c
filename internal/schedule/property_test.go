package schedule

import (
	"fmt"
	"hash/fnv"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// drawCandidate draws a worker of any kind.
func drawCandidate(t *rapid.T, id int) Candidate {
	return Candidate{
		Worker: stacyvm.Worker{
			ID:        stacyvm.WorkerID(fmt.Sprintf("w%03d", id)),
			Status:    rapid.SampledFrom([]stacyvm.WorkerStatus{"online", "online", "online", "starting", "draining", "offline", "unhealthy"}).Draw(t, "status"),
			Providers: rapid.SampledFrom([][]string{nil, {"gvisor"}, {"mock", "gvisor"}, {"mock"}}).Draw(t, "providers"),
			Capacity: stacyvm.Capacity{
				MaxSandboxes: rapid.IntRange(0, 4).Draw(t, "max"), MemoryMB: rapid.SampledFrom([]int{0, 256, 1024, 4096}).Draw(t, "memory"),
				VCPUs:  rapid.IntRange(0, 8).Draw(t, "vcpus"),
				Labels: rapid.SampledFrom([]map[string]string{nil, {"zone": "a"}, {"zone": "b"}, {"zone": "a", "gpu": ""}}).Draw(t, "labels"),
			},
		},
		Used: stacyvm.Usage{
			Sandboxes: rapid.IntRange(0, 5).Draw(t, "sandboxes"), MemoryMB: rapid.IntRange(0, 4096).Draw(t, "used"), VCPUs: rapid.IntRange(0, 9).Draw(t, "cpus"),
		},
		Age:       rapid.SampledFrom([]time.Duration{0, stacyvm.WorkerStaleAfter, stacyvm.WorkerStaleAfter + 1}).Draw(t, "age"),
		Reachable: rapid.SampledFrom([]bool{true, true, false}).Draw(t, "reachable"),
	}
}

func drawSpec(t *rapid.T) stacyvm.Spec {
	return stacyvm.Spec{
		Provider: rapid.SampledFrom([]string{"gvisor", "mock"}).Draw(t, "provider"),
		MemoryMB: rapid.IntRange(64, 2048).Draw(t, "memory_mb"), VCPUs: rapid.IntRange(1, 4).Draw(t, "cpus"),
		Selector: rapid.SampledFrom([]map[string]string{nil, nil, {"zone": "a"}, {"zone": "a", "gpu": ""}, {"gpu": "x"}}).Draw(t, "selector"),
	}
}

// mayTake says in other words than the code what a worker may be given.
func mayTake(spec stacyvm.Spec, c Candidate) bool {
	w, has := c.Worker, c.Worker.Capacity
	for key, value := range spec.Selector {
		if got, ok := has.Labels[key]; !ok || got != value {
			return false
		}
	}
	return w.Status == "online" && c.Age <= 2*time.Minute && c.Reachable &&
		(w.Providers == nil || slices.Contains(w.Providers, spec.Provider)) &&
		(has.MaxSandboxes == 0 || c.Used.Sandboxes < has.MaxSandboxes) &&
		(has.MemoryMB == 0 || c.Used.MemoryMB <= has.MemoryMB-spec.MemoryMB) &&
		(has.VCPUs == 0 || c.Used.VCPUs <= has.VCPUs-spec.VCPUs)
}

// TestPickIsRight holds for all inputs: an eligible worker is found when there is one, never
// another one; the same input gives the same answer and is left as it was; the seed alone decides
// nothing but which.
func TestPickIsRight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec, seed := drawSpec(t), rapid.Uint64().Draw(t, "seed")
		var candidates []Candidate
		eligible := map[stacyvm.WorkerID]bool{}
		for i := range rapid.IntRange(0, 12).Draw(t, "workers") {
			c := drawCandidate(t, i)
			candidates = append(candidates, c)
			if mayTake(spec, c) {
				eligible[c.Worker.ID] = true
			}
			if Eligible(spec, c) != mayTake(spec, c) {
				t.Fatalf("eligible: %v of %+v for %+v", Eligible(spec, c), c, spec)
			}
		}
		before := slices.Clone(candidates)
		got := Pick(spec, seed, candidates)
		if got.Eligible != len(eligible) || (got.Worker != "") != (len(eligible) > 0) || got.Worker != "" && !eligible[got.Worker] {
			t.Fatalf("%+v of %v", got, eligible)
		}
		if at := slices.IndexFunc(candidates, func(c Candidate) bool { return c.Worker.ID == got.Worker }); at >= 0 && got.Most < candidates[at].Used.Sandboxes {
			t.Fatalf("%+v is no good choice as it is known: %+v", got, candidates[at])
		}
		if (got.Reason == "") != (got.Worker != "") || got.Worker != "" && (got.Passing || got.Unreachable) || got.Unreachable && !got.Passing {
			t.Fatalf("%+v", got)
		}
		if again := Pick(spec, seed, candidates); again != got {
			t.Fatalf("%+v and then %+v", got, again)
		}
		if other := Pick(spec, seed+1, candidates); other.Eligible != got.Eligible || other.Reason != got.Reason {
			t.Fatalf("another seed: %+v and %+v", got, other)
		}
		if !reflect.DeepEqual(before, candidates) {
			t.Fatal("the candidates were changed")
		}
	})
}

// TestNeverBeyondCapacity fills workers until nobody takes more: none is over its capacity, and
// none has room.
func TestNeverBeyondCapacity(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		spec := drawSpec(t)
		var candidates []Candidate
		for i := range rapid.IntRange(1, 8).Draw(t, "workers") {
			c := drawCandidate(t, i)
			c.Used, c.Worker.Capacity.MaxSandboxes = stacyvm.Usage{}, max(1, c.Worker.Capacity.MaxSandboxes)
			candidates = append(candidates, c)
		}
		for placed := 0; ; placed++ {
			got := Pick(spec, uint64(placed), candidates)
			if got.Worker == "" {
				break
			}
			c := &candidates[slices.IndexFunc(candidates, func(c Candidate) bool { return c.Worker.ID == got.Worker })]
			c.Used = c.Used.Plus(spec.Usage())
			has := c.Worker.Capacity
			if c.Used.Sandboxes > has.MaxSandboxes || has.MemoryMB > 0 && c.Used.MemoryMB > has.MemoryMB || has.VCPUs > 0 && c.Used.VCPUs > has.VCPUs {
				t.Fatalf("%+v of %+v", c.Used, has)
			}
		}
		for _, c := range candidates {
			if mayTake(spec, c) {
				t.Fatalf("%s has room left: %+v", c.Worker.ID, c)
			}
		}
	})
}

// TestBalance places on equal workers, from several control planes that each know what they placed
// themselves and learn of the others' at a count now and then. Those who look see what the worker
// that they chose has, and leave one that has too much.
func TestBalance(t *testing.T) {
	testneed.Patience(t)
	const workers, placements = 300, 3000
	for name, tt := range map[string]struct {
		planes, every int // placements between counts
		looks         bool
		within        int // sandboxes off the mean of 10
	}{
		"one":                                 {1, placements, false, 1},
		"two":                                 {2, 75, false, 1},
		"three":                               {3, 30, false, 2},
		"eight":                               {8, 30, false, 2},
		"three that count too late":           {3, 300, false, 4},
		"two that look":                       {2, 75, true, 1},
		"three that count too late, and look": {3, 300, true, 1},
		"eight that count late, and look":     {8, 75, true, 2},
	} {
		t.Run(name, func(t *testing.T) {
			views := make([][]Candidate, tt.planes)
			truth := make([]int, workers)
			for i := range placements {
				if i%tt.every == 0 {
					for plane := range views {
						views[plane] = counted(truth)
					}
				}
				view := views[i%tt.planes]
				hash := fnv.New64a()
				_, _ = fmt.Fprint(hash, "sb-", i)
				at := 0
				for try := range uint64(4) {
					choice := Pick(spec, hash.Sum64()+try, view)
					at = indexOf(choice.Worker)
					if !tt.looks || truth[at] <= choice.Most {
						break
					}
					view[at].Used = stacyvm.Usage{Sandboxes: truth[at], MemoryMB: truth[at] * spec.MemoryMB, VCPUs: truth[at]}
				}
				truth[at]++
				view[at].Used = view[at].Used.Plus(spec.Usage())
				if tt.looks {
					view[at].Used = stacyvm.Usage{Sandboxes: truth[at], MemoryMB: truth[at] * spec.MemoryMB, VCPUs: truth[at]}
				}
			}
			least, most := slices.Min(truth), slices.Max(truth)
			t.Logf("%d to %d sandboxes on a worker", least, most)
			if most > placements/workers+tt.within || least < placements/workers-tt.within {
				t.Errorf("%d to %d sandboxes on a worker, want %d at most %d off", least, most, placements/workers, tt.within)
			}
		})
	}
}

func indexOf(id stacyvm.WorkerID) (at int) {
	_, _ = fmt.Sscanf(string(id), "w%d", &at)
	return at
}

func counted(truth []int) []Candidate {
	view := make([]Candidate, len(truth))
	for i, n := range truth {
		view[i] = candidate(stacyvm.WorkerID(fmt.Sprintf("w%04d", i)), used(n, n*512, n), room(0, 65536, 64))
	}
	return view
}

func BenchmarkPick(b *testing.B) {
	view := counted(make([]int, 1000))
	for i := range b.N {
		Pick(spec, uint64(i), view)
	}
}
