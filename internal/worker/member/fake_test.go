package member

import (
	"context"
	"maps"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// cluster is what all control planes share: the sessions, and leases by the rules of the store, in
// its own time.
type cluster struct {
	mu       sync.Mutex
	start    time.Time
	rate     float64 // of the database's clock
	session  string  // registered; "": the worker is not known
	worker   stacyvm.Worker
	fences   map[stacyvm.SandboxID]stacyvm.Fence
	expires  time.Duration // of all leases, which are renewed together
	renewals []time.Duration
	lapsed   int // leases that renewals still have to take again, one each
	handed   bool
	beats    []Heartbeat
	asked    int // questions after one lease
}

func newCluster(ids ...stacyvm.SandboxID) *cluster {
	c := &cluster{start: time.Now(), rate: 1, fences: map[stacyvm.SandboxID]stacyvm.Fence{}}
	for _, id := range ids {
		c.fences[id] = stacyvm.Fence{Incarnation: 1, Epoch: 1}
	}
	return c
}

// now is the database's time.
func (c *cluster) now() time.Duration { return time.Duration(float64(time.Since(c.start)) * c.rate) }

// takeover says when another worker could take the sandboxes, in real time since the start.
func (c *cluster) takeover() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Duration(float64(c.expires+stacyvm.LeaseGrace) / c.rate)
}

func (c *cluster) status() stacyvm.WorkerStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.worker.Status
}

// fence is that of the box.
func (c *cluster) fence() stacyvm.Fence {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.fences[box]
}

func (c *cluster) give(ref stacyvm.Ref) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fences[ref.ID] = ref.Fence
}

// plane is one control plane of the cluster and the network to it.
type plane struct {
	*cluster
	name string

	state struct {
		sync.Mutex
		fault  fault
		slow   time.Duration // before the control plane acts
		answer time.Duration // after it
		refuse error
	}
	lose  func(*cluster) bool // loses what it holds of, as lost does; nil: nothing
	heard func()              // is told of each heartbeat that arrived; nil: nobody
}

type fault int

const (
	fine   fault = iota
	lost         // nothing arrives: the call hangs
	mute         // it arrives, and the answer does not
	absent       // nobody listens
)

func (p *plane) set(f fault) {
	p.state.Lock()
	defer p.state.Unlock()
	p.state.fault = f
}

func (p *plane) refuse(err error) {
	p.state.Lock()
	defer p.state.Unlock()
	p.state.refuse = err
}

// through is the way to the control plane and back.
func (p *plane) through(ctx context.Context, act func() error) error {
	p.state.Lock()
	state, slow, answer, refuse := p.state.fault, p.state.slow, p.state.answer, p.state.refuse
	p.state.Unlock()
	switch {
	case state == absent:
		return stacyvm.Errorf(stacyvm.CodeUnavailable, "connection refused")
	case refuse != nil:
		return refuse
	case state == lost || p.loses() || !wait(ctx, slow):
		<-ctx.Done()
		return ctx.Err()
	}
	p.mu.Lock()
	err := act()
	p.mu.Unlock()
	if state == mute || !wait(ctx, answer) {
		<-ctx.Done()
		return ctx.Err()
	}
	return err
}

func (p *plane) loses() bool {
	if p.lose == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.lose(p.cluster)
}

func (p *plane) Heartbeat(ctx context.Context, beat Heartbeat) (worker stacyvm.Worker, err error) {
	err = p.through(ctx, func() error {
		switch {
		case beat.Register && beat.Session != p.session:
			p.session = beat.Session
			for id, fence := range p.fences {
				fence.Epoch++
				p.fences[id] = fence
			}
			p.expires = p.now() + stacyvm.LeaseTTL
		case !beat.Register && beat.Session != "" && p.session == "":
			return stacyvm.Errorf(stacyvm.CodeNotFound, "no such worker")
		case !beat.Register && beat.Session != "" && beat.Session != p.session:
			return stacyvm.Errorf(stacyvm.CodeConflict, "another session")
		}
		p.beats = append(p.beats, beat)
		p.worker = stacyvm.Worker{Status: beat.Status, Session: beat.Session, Providers: beat.Providers}
		worker = p.worker
		if p.heard != nil {
			p.heard()
		}
		return nil
	})
	return worker, err
}

func (p *plane) Renew(ctx context.Context, session string, handover bool) (answer Renewal, err error) {
	err = p.through(ctx, func() error {
		if p.session == "" {
			return stacyvm.Errorf(stacyvm.CodeNotFound, "no such worker")
		}
		if session != p.session {
			return stacyvm.Errorf(stacyvm.CodeConflict, "another session")
		}
		p.renewals = append(p.renewals, time.Since(p.start))
		p.expires, p.handed = p.now()+stacyvm.LeaseTTL, handover
		if handover {
			p.expires = p.now() + 120*time.Second
		}
		answer = Renewal{Cluster: "ours", Fences: maps.Clone(p.fences), Lapsed: p.lapsed}
		p.lapsed = max(p.lapsed-1, 0)
		return nil
	})
	return answer, err
}

func (p *plane) Lease(ctx context.Context, id stacyvm.SandboxID) (fence stacyvm.Fence, err error) {
	err = p.through(ctx, func() error {
		p.asked++
		held, ok := p.fences[id]
		if !ok {
			return stacyvm.Errorf(stacyvm.CodeNotFound, "not held")
		}
		fence = held
		return nil
	})
	return fence, err
}

func (p *plane) Address() string { return p.name }

// planes makes control planes of the cluster.
func (c *cluster) planes(n int) (all []*plane) {
	for i := range n {
		all = append(all, &plane{cluster: c, name: string(rune('a' + i))})
	}
	return all
}

// process is a member that runs.
type process struct {
	*Member
	stop context.CancelFunc
	done chan error
}

// launch runs a member whose clock goes at a rate.
func launch(t *testing.T, session string, rate float64, planes ...*plane) *process {
	t.Helper()
	p := prepare(t, session, rate, planes...)
	p.run(t)
	return p
}

// prepare is launch without running it.
func prepare(t *testing.T, session string, rate float64, planes ...*plane) *process {
	t.Helper()
	config := Config{Session: session, Offer: func(context.Context) (Offer, error) {
		return Offer{Hostname: "host", Providers: []string{"mock"}, Capacity: stacyvm.Capacity{MemoryMB: 64}}, nil
	}}
	for _, p := range planes {
		config.Planes = append(config.Planes, p)
	}
	m, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	m.clock = clock{
		now:  func() time.Duration { return time.Duration(float64(time.Since(start)) * rate) },
		wait: func(ctx context.Context, d time.Duration) bool { return wait(ctx, time.Duration(float64(d)/rate)) },
	}
	return &process{Member: m, done: make(chan error, 1)}
}

func (p *process) run(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p.stop = cancel
	go func() { p.done <- p.Run(ctx) }()
}

// end stops the process and gives what Run said.
func (p *process) end() error {
	p.stop()
	return <-p.done
}

func wantCode(t *testing.T, what string, err error, code stacyvm.Code) {
	t.Helper()
	if stacyvm.CodeOf(err) != code {
		t.Errorf("%s: %v, want code %q", what, err, code)
	}
}
