package schedule

import (
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// spec is what the tests place.
var spec = stacyvm.Spec{Provider: "gvisor", MemoryMB: 512, VCPUs: 1}

// candidate is an online, fresh, idle worker without limits that tests then spoil.
func candidate(id stacyvm.WorkerID, spoil ...func(*Candidate)) Candidate {
	c := Candidate{Worker: stacyvm.Worker{ID: id, Status: "online", Providers: []string{"gvisor"}}, Reachable: true}
	for _, s := range spoil {
		s(&c)
	}
	return c
}

func used(sandboxes, memory, vcpus int) func(*Candidate) {
	return func(c *Candidate) { c.Used = stacyvm.Usage{Sandboxes: sandboxes, MemoryMB: memory, VCPUs: vcpus} }
}

func room(sandboxes, memory, vcpus int) func(*Candidate) {
	return func(c *Candidate) {
		c.Worker.Capacity.MaxSandboxes, c.Worker.Capacity.MemoryMB, c.Worker.Capacity.VCPUs = sandboxes, memory, vcpus
	}
}

func status(s stacyvm.WorkerStatus) func(*Candidate) {
	return func(c *Candidate) { c.Worker.Status = s }
}
func age(d time.Duration) func(*Candidate) { return func(c *Candidate) { c.Age = d } }
func unreachableNow(c *Candidate)          { c.Reachable = false }

func engines(names ...string) func(*Candidate) {
	return func(c *Candidate) { c.Worker.Providers = names }
}

func labels(pairs ...string) func(*Candidate) {
	return func(c *Candidate) {
		c.Worker.Capacity.Labels = map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			c.Worker.Capacity.Labels[pairs[i]] = pairs[i+1]
		}
	}
}

func TestPick(t *testing.T) {
	zoned := spec
	zoned.Selector = map[string]string{"zone": "a", "disk": "fast"}
	tests := map[string]struct {
		spec       stacyvm.Spec
		candidates []Candidate
		want       stacyvm.WorkerID
		eligible   int
	}{
		"nobody":                     {spec, nil, "", 0},
		"one":                        {spec, []Candidate{candidate("a")}, "a", 1},
		"fewest sandboxes":           {spec, []Candidate{candidate("a", used(3, 0, 0)), candidate("b", used(1, 0, 0)), candidate("c", used(2, 0, 0))}, "b", 3},
		"draining takes nothing":     {spec, []Candidate{candidate("a", status("draining")), candidate("b", used(9, 0, 0))}, "b", 1},
		"starting takes nothing":     {spec, []Candidate{candidate("a", status("starting"))}, "", 0},
		"offline takes nothing":      {spec, []Candidate{candidate("a", status("offline"))}, "", 0},
		"unknown status":             {spec, []Candidate{candidate("a", status(""))}, "", 0},
		"last fresh moment":          {spec, []Candidate{candidate("a", age(stacyvm.WorkerStaleAfter))}, "a", 1},
		"stale":                      {spec, []Candidate{candidate("a", age(stacyvm.WorkerStaleAfter+1))}, "", 0},
		"other engine":               {spec, []Candidate{candidate("a", engines("mock"))}, "", 0},
		"several engines":            {spec, []Candidate{candidate("a", engines("mock", "gvisor"))}, "a", 1},
		"no list means all engines":  {spec, []Candidate{candidate("a", engines())}, "a", 1},
		"no way to it":               {spec, []Candidate{candidate("a", unreachableNow)}, "", 0},
		"last place":                 {spec, []Candidate{candidate("a", used(4, 0, 0), room(5, 0, 0))}, "a", 1},
		"full":                       {spec, []Candidate{candidate("a", used(5, 0, 0), room(5, 0, 0))}, "", 0},
		"no limit":                   {spec, []Candidate{candidate("a", used(100_000, 1<<40, 1<<40))}, "a", 1},
		"last memory":                {spec, []Candidate{candidate("a", used(1, 512, 1), room(0, 1024, 0))}, "a", 1},
		"memory that is short by 1":  {spec, []Candidate{candidate("a", used(1, 513, 1), room(0, 1024, 0))}, "", 0},
		"last processor":             {spec, []Candidate{candidate("a", used(1, 0, 1), room(0, 0, 2))}, "a", 1},
		"no processor":               {spec, []Candidate{candidate("a", used(1, 0, 2), room(0, 0, 2))}, "", 0},
		"too small for it":           {spec, []Candidate{candidate("a", room(0, 511, 0))}, "", 0},
		"all labels":                 {zoned, []Candidate{candidate("a", labels("zone", "a")), candidate("b", labels("zone", "a", "disk", "fast", "x", "y"))}, "b", 1},
		"another value":              {zoned, []Candidate{candidate("a", labels("zone", "b", "disk", "fast"))}, "", 0},
		"labels that nobody asks":    {spec, []Candidate{candidate("a", labels("zone", "b"))}, "a", 1},
		"fullest measure decides":    {spec, []Candidate{candidate("a", used(1, 512, 7), room(0, 1<<20, 8)), candidate("b", used(9, 9*512, 9), room(0, 1<<14, 64))}, "b", 2},
		"a large worker takes more":  {spec, []Candidate{candidate("a", used(3, 3*512, 3), room(0, 8192, 16)), candidate("b", used(5, 5*512, 5), room(0, 32768, 64))}, "b", 2},
		"without a limit as largest": {spec, []Candidate{candidate("a", used(4, 4*512, 4), room(0, 16384, 8)), candidate("b", used(9, 9*512, 9))}, "a", 2},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			for seed := range uint64(8) {
				got := Pick(tt.spec, seed, tt.candidates)
				if got.Worker != tt.want || got.Eligible != tt.eligible {
					t.Errorf("Pick gave %q of %d eligible, want %q of %d", got.Worker, got.Eligible, tt.want, tt.eligible)
				}
				if (got.Reason == "") != (tt.want != "") {
					t.Errorf("reason %q with worker %q: exactly one of them must be set", got.Reason, got.Worker)
				}
			}
		})
	}
}

// TestNoneSaysWhetherWaitingHelps tells a cluster that is full, or cannot be called, from one that
// will never do.
func TestNoneSaysWhetherWaitingHelps(t *testing.T) {
	full, other := candidate("a", used(1, 0, 0), room(1, 0, 0)), candidate("b", engines("mock"))
	tests := map[string]struct {
		candidates           []Candidate
		passing, unreachable bool
	}{
		"nobody yet":               {nil, true, false},
		"full":                     {[]Candidate{full, other}, true, false},
		"away":                     {[]Candidate{candidate("a", status("offline"))}, true, false},
		"silent":                   {[]Candidate{candidate("a", age(time.Hour))}, true, false},
		"no address":               {[]Candidate{full, candidate("b", unreachableNow)}, true, true},
		"no address and full":      {[]Candidate{candidate("a", unreachableNow, used(1, 0, 0), room(1, 0, 0))}, true, false},
		"no address, wrong engine": {[]Candidate{candidate("a", unreachableNow, engines("mock"))}, false, false},
		"wrong engine":             {[]Candidate{other}, false, false},
		"too small, and away":      {[]Candidate{candidate("a", room(0, 511, 0), status("offline"))}, false, false},
		"all processors taken":     {[]Candidate{candidate("a", room(0, 0, 1), used(5, 0, 1))}, true, false},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := Pick(spec, 1, tt.candidates)
			if got.Worker != "" || got.Passing != tt.passing || got.Unreachable != tt.unreachable {
				t.Errorf("%+v, want passing %v, unreachable %v", got, tt.passing, tt.unreachable)
			}
		})
	}
}

func TestCallable(t *testing.T) {
	for address, want := range map[string]bool{
		"http://w1:7424": true, "https://10.0.0.1:7424": true, "": false, "w1:7424": false, "https://": false, "https://:7424": false, "unix:///x": false, "ht tp://x": false,
	} {
		if got := Callable(stacyvm.Worker{Capacity: stacyvm.Capacity{RPCURL: address}}); got != want {
			t.Errorf("%q: %v", address, got)
		}
	}
}

// TestPickAvoidsTroubledMachines: one whose machine has a problem gets sandboxes only when no
// other can take them.
func TestPickAvoidsTroubledMachines(t *testing.T) {
	troubled := func(c *Candidate) { c.Worker.Problems = []string{"the disk is full"} }
	for seed := range uint64(32) {
		if got := Pick(spec, seed, []Candidate{candidate("full", troubled), candidate("busy", used(40, 0, 0))}); got.Worker != "busy" {
			t.Errorf("beside a full disk %q was chosen", got.Worker)
		}
		if got := Pick(spec, seed, []Candidate{candidate("full", troubled), candidate("away", status("offline"))}); got.Worker != "full" {
			t.Errorf("with full disks alone %q was chosen: %s", got.Worker, got.Reason)
		}
	}
}
