// Package placement finds room for new sandboxes: it counts what workers have, decides whether a
// create is let in, chooses a worker and writes the row there, and keeps the lines of those that
// wait for room or for their worker. It knows the store and who is calling; it calls no worker
// and knows none of the product's verbs.
package placement

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/coalesce"
	"github.com/stacyvm/stacyvm/internal/control/audit"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// storeWithin bounds the store's part of a placement.
const storeWithin = 15 * time.Second

// Config is what a Placer is made from.
type Config struct {
	Store   store.Store
	Self    stacyvm.WorkerID // the worker in this process
	Session string           // of this process; holds the leases of Self
	Limits  Limits
	Queue   QueueConfig
	Audit   *audit.Writer
	Logger  *slog.Logger
}

// Limits bound what is let in; 0: no limit.
type Limits struct {
	TTL      time.Duration
	Total    int // sandboxes
	PerOwner int // sandboxes
}

// QueueConfig is how creates wait for room.
type QueueConfig struct {
	On      bool          // creates that find no room wait; they are refused without
	Timeout time.Duration // 0: as long as the client waits
	Length  int           // how many may wait; 0: any number
}

// Placer finds room. All methods may be called concurrently.
type Placer struct {
	store   store.Store
	self    stacyvm.WorkerID
	session string
	limits  Limits
	audit   *audit.Writer
	fleet   *fleet
	queue   *queue
	starts  *starts

	together *coalesce.Group[*reservation]
}

// New makes a placer; Run must run for as long as it is used.
func New(c Config) *Placer {
	p := &Placer{
		store: c.Store, self: c.Self, session: c.Session, limits: c.Limits, audit: c.Audit,
		fleet:  newFleet(c.Store, c.Self),
		queue:  newQueue(c.Queue, c.Store.Watch),
		starts: newStarts(c.Store, c.Logger),
	}
	p.together = coalesce.NewGroup(togetherMost, p.reserveTogether)
	return p
}

// Run gives turns to creates that wait for room, and keeps the rows of those that wait for their
// worker young, until ctx ends.
func (p *Placer) Run(ctx context.Context) {
	var both sync.WaitGroup
	both.Go(func() { p.queue.run(ctx) })
	both.Go(func() { p.starts.touch(ctx) })
	both.Wait()
}

// Drain sends those who wait away with CodeUnavailable and lets nobody wait any more: for a
// server that stops.
func (p *Placer) Drain() {
	p.queue.close()
	p.starts.close()
}

// Remembered is what this process knows of the workers without the store, and no heartbeat or
// problem, which would be old.
func (p *Placer) Remembered() []stacyvm.Worker { return p.fleet.remembered() }

// Enter puts a create that has its place at the end of its worker's line of starts. End must
// follow.
func (p *Placer) Enter(placed Result) *Turn { return p.starts.enter(placed.Sandbox, placed.Starts) }

// Refuse ends the waiting of a sandbox that is to be destroyed; one that does not wait is left
// alone.
func (p *Placer) Refuse(id stacyvm.SandboxID) { p.starts.refuse(id, ErrDestroyed) }

// WithPlaces fills in the places in line of sandboxes that are still being created.
func (p *Placer) WithPlaces(sandboxes ...stacyvm.Sandbox) []stacyvm.Sandbox {
	return p.starts.withPlaces(sandboxes)
}
