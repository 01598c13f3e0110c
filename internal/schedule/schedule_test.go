package schedule

import (
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// candidate is an online, fresh, idle worker that tests then spoil.
func candidate(id stacyvm.WorkerID, spoil ...func(*Candidate)) Candidate {
	c := Candidate{Worker: stacyvm.Worker{
		ID: id, Status: "online", Providers: []string{"gvisor"}, Capacity: stacyvm.Capacity{RPCURL: "https://" + string(id)},
	}}
	for _, s := range spoil {
		s(&c)
	}
	return c
}

func TestPick(t *testing.T) {
	active := func(n int) func(*Candidate) { return func(c *Candidate) { c.Active = n } }
	room := func(n int) func(*Candidate) { return func(c *Candidate) { c.Worker.Capacity.MaxSandboxes = n } }
	status := func(s string) func(*Candidate) { return func(c *Candidate) { c.Worker.Status = s } }
	age := func(d time.Duration) func(*Candidate) { return func(c *Candidate) { c.Age = d } }
	unreachable := func(c *Candidate) { c.Worker.Capacity.RPCURL = "" }
	local := func(c *Candidate) { c.Local = true }
	engines := func(names ...string) func(*Candidate) { return func(c *Candidate) { c.Worker.Providers = names } }

	tests := map[string]struct {
		candidates []Candidate
		want       stacyvm.WorkerID
		eligible   int
	}{
		"nobody":                    {nil, "", 0},
		"one":                       {[]Candidate{candidate("a")}, "a", 1},
		"least active wins":         {[]Candidate{candidate("a", active(3)), candidate("b", active(1)), candidate("c", active(2))}, "b", 3},
		"equals go by id":           {[]Candidate{candidate("c"), candidate("a"), candidate("b")}, "a", 3},
		"draining takes nothing":    {[]Candidate{candidate("a", status("draining")), candidate("b", active(9))}, "b", 1},
		"offline takes nothing":     {[]Candidate{candidate("a", status("offline"))}, "", 0},
		"unknown status":            {[]Candidate{candidate("a", status(""))}, "", 0},
		"last fresh moment":         {[]Candidate{candidate("a", age(stacyvm.WorkerStaleAfter))}, "a", 1},
		"stale":                     {[]Candidate{candidate("a", age(stacyvm.WorkerStaleAfter+1))}, "", 0},
		"other engine":              {[]Candidate{candidate("a", engines("mock"))}, "", 0},
		"several engines":           {[]Candidate{candidate("a", engines("mock", "gvisor"))}, "a", 1},
		"no list means all engines": {[]Candidate{candidate("a", engines())}, "a", 1},
		"last place":                {[]Candidate{candidate("a", active(4), room(5))}, "a", 1},
		"full":                      {[]Candidate{candidate("a", active(5), room(5))}, "", 0},
		"no way to it":              {[]Candidate{candidate("a", unreachable)}, "", 0},
		"in this process":           {[]Candidate{candidate("a", unreachable, local), candidate("b", unreachable)}, "a", 1},
		"no limit":                  {[]Candidate{candidate("a", active(100_000), room(0))}, "a", 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got := Pick(stacyvm.Spec{Provider: "gvisor"}, tt.candidates)
			if got.Worker != tt.want || got.Eligible != tt.eligible {
				t.Errorf("Pick gave %q of %d eligible, want %q of %d", got.Worker, got.Eligible, tt.want, tt.eligible)
			}
			if (got.Reason == "") != (tt.want != "") {
				t.Errorf("reason %q with worker %q: exactly one of them must be set", got.Reason, got.Worker)
			}
		})
	}
}
