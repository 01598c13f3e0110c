// Package member is a worker's part in the cluster: it registers with a control plane, tells it
// that the worker lives and what it offers, keeps the leases of its sandboxes, and says when the
// worker has to stop acting because it can no longer know whether they are its own. It knows no
// store, no HTTP and no engine.
//
// A lease lives for stacyvm.LeaseTTL from a renewal on and may be taken over stacyvm.LeaseGrace
// later. The worker stops StopAfter after it sent the renewal, by a clock that no operator sets,
// so that it has stopped before anybody can take over, also when its clock runs slower than the
// database's, up to a ratio of 1.5.
package member

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// StopAfter is how long after sending the last renewal that succeeded the worker begins
	// nothing new.
	StopAfter = 25 * time.Second
	// TryWithin bounds one call to one control plane.
	TryWithin = 5 * time.Second
	// regainAfter is the pause after a renewal that left some to be taken again.
	regainAfter = 100 * time.Millisecond
	// retryAfter is the pause after no control plane answered.
	retryAfter = 2 * time.Second
	// HeartbeatEvery is the pause between heartbeats when nothing else is configured.
	HeartbeatEvery = 30 * time.Second
)

// ControlPlane is one control plane as a worker sees it. Its errors have codes. CodeConflict:
// another process is this worker now. CodeNotFound: there is no such worker or lease.
// CodeUnauthenticated, CodeForbidden: the credential is not accepted. Everything else: it does not
// answer now, and another one may.
type ControlPlane interface {
	// Heartbeat tells that the worker lives and gives its registration.
	Heartbeat(ctx context.Context, beat Heartbeat) (stacyvm.Worker, error)
	// Renew extends all leases of the session and takes those again that had run out. With
	// handover they live long enough for the next process.
	Renew(ctx context.Context, session string, handover bool) (Renewal, error)
	// Lease gives the fence under which this worker holds a sandbox; CodeNotFound when it does
	// not.
	Lease(ctx context.Context, id stacyvm.SandboxID) (stacyvm.Fence, error)
	// Address is for logs.
	Address() string
}

// Offer is what the machine has for sandboxes, as found and not as configured.
type Offer struct {
	Hostname     string
	Providers    []string // engines that work
	Capabilities []string
	Capacity     stacyvm.Capacity
	Problems     []string // with the machine, such as a full disk
}

// Heartbeat is what a worker tells of itself.
type Heartbeat struct {
	Offer
	Status  stacyvm.WorkerStatus
	Session string // "": of no process that acts
	// Register makes Session the one that counts: an earlier process of this name can do nothing
	// more.
	Register bool
}

// Renewal is the leases that the session holds after a renewal.
type Renewal struct {
	Cluster string // the cluster's id
	Fences  map[stacyvm.SandboxID]stacyvm.Fence
	Lapsed  int // how many had run out and are still to be taken again, by the next renewal
}

// Config is what a Member is made from.
type Config struct {
	Planes  []ControlPlane // at least one; the next is asked when one does not answer
	Session string         // random per process
	// Offer looks at the machine; it is called before each heartbeat.
	Offer func(context.Context) (Offer, error)
	// Confirmed reports whether the machine itself knows that a fence was its sandbox's, as of one
	// whose lease was given up and whose runtime is still to be removed; nil: it knows none.
	Confirmed func(stacyvm.Ref) bool
	// HeartbeatEvery is the pause between heartbeats; 0: the default.
	HeartbeatEvery time.Duration
	Logger         *slog.Logger // nil: none
}

// Member is one worker process's membership. It is safe for concurrent use.
type Member struct {
	config   Config
	log      *slog.Logger
	clock    clock
	gate     gate
	fences   fences
	first    atomic.Int64 // the plane that answered last
	draining atomic.Bool
	telling  sync.Mutex    // heartbeats go out one after the other, so that an older status is never the last
	leased   chan struct{} // closed by the first renewal
	ready    chan struct{}
}

// New makes a member; Run makes it act. CodeInvalid: no control plane is given.
func New(config Config) (*Member, error) {
	if len(config.Planes) == 0 {
		return nil, stacyvm.Invalid("worker.control_plane_url", "no control plane is named")
	}
	if config.Logger == nil {
		config.Logger = slog.New(slog.DiscardHandler)
	}
	if config.HeartbeatEvery <= 0 {
		config.HeartbeatEvery = HeartbeatEvery
	}
	return &Member{
		config: config,
		log:    config.Logger,
		clock:  sinceBoot(),
		leased: make(chan struct{}),
		ready:  make(chan struct{}),
	}, nil
}

// Run registers the session, as soon as a control plane answers, and then keeps its heartbeats and
// leases up until ctx ends, which is no error. CodeConflict: another process has become this
// worker, and this one must end; its gate is closed for good. CodeUnauthenticated and
// CodeForbidden: no control plane takes the credential at the start. Run it once.
func (m *Member) Run(ctx context.Context) error {
	defer m.gate.shut(errLeft)
	if err := m.join(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.renewLoop(ctx) })
	group.Go(func() error { return m.heartbeatLoop(ctx) })
	return group.Wait()
}

// Leased is closed once the worker is registered and holds its leases: it acts.
func (m *Member) Leased() <-chan struct{} { return m.leased }

// Ready is closed once it acts and control planes know that: sandboxes are placed on it from now
// on.
func (m *Member) Ready() <-chan struct{} { return m.ready }

// Gate gives nil while the worker may change sandboxes, else a CodeLeaseLost error. What runs in
// them goes on.
func (m *Member) Gate() error { return m.gate.check(m.clock.now()) }

// Draining reports whether the worker takes no new sandboxes because it ends.
func (m *Member) Draining() bool { return m.draining.Load() }

// acts reports whether the session was ever the worker's.
func (m *Member) acts() bool {
	select {
	case <-m.leased:
		return true
	default:
		return false
	}
}

// Drain takes no new sandboxes from now on, and tells so. A control plane that does not answer
// learns it by the refusals.
func (m *Member) Drain(ctx context.Context) error {
	m.draining.Store(true)
	if !m.acts() {
		return nil
	}
	return m.beat(ctx, false)
}

// Tell sends a heartbeat now, because what it says has changed. Without an answer the next one
// says it.
func (m *Member) Tell(ctx context.Context) error {
	if !m.acts() {
		return nil
	}
	return m.beat(ctx, false)
}

// Leave hands the leases over to the next process of this worker, after Run has ended: they live
// long enough for its start, and nobody takes the sandboxes meanwhile. It changes nothing when
// another process is the worker already.
func (m *Member) Leave(ctx context.Context) error {
	m.gate.shut(errLeft)
	if !m.acts() || m.gate.fenced() {
		return nil
	}
	return m.ask(ctx, func(ctx context.Context, plane ControlPlane) error {
		_, err := plane.Renew(ctx, m.config.Session, true)
		return err
	})
}
