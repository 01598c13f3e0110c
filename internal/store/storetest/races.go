package storetest

import (
	"fmt"
	"sync"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

const (
	raceStores     = 4
	raceContenders = 16
)

// grant is one entry of the history: what one contender got in one round.
type grant struct {
	holder stacyvm.WorkerID
	lease  stacyvm.Lease
	err    error
}

// leaseRaces lets contenders on several connections go for one sandbox at once, round after round.
// Between rounds its holder lets go, runs out of time, or keeps it; the history must be one that a
// single table of leases could give.
func leaseRaces(r *rig) {
	stores := []store.Store{r.Store}
	for len(stores) < raceStores {
		stores = append(stores, r.another())
	}
	row := r.insert(nil)
	var last stacyvm.Lease
	for round := range testneed.Often(200, 10_000) {
		history := r.meet(stores, row.ID)
		winner := r.oneWinner(round, history)
		if winner.Epoch != last.Epoch+1 || winner.Generation <= last.Generation {
			r.Fatalf("round %d: granted %+v after %+v", round, winner, last)
		}
		if last.Holder != "" && winner.Holder != last.Holder && kindOf(round-1) == keeps {
			r.Fatalf("round %d: %s took the lease from %s, who held it", round, winner.Holder, last.Holder)
		}
		r.writesCount(row.ID, last, winner)
		last = winner
		switch kindOf(round) {
		case releases:
			r.must(r.release(string(row.ID), winner.Holder, winner.Epoch))
		case lapses:
			r.clock.advance(leaseTTL + leaseGrace + leaseGrace)
		}
	}
}

// What the holder does after a round.
const (
	releases = iota
	lapses
	keeps
)

func kindOf(round int) int { return round % 3 }

// meet has everybody try once, at the same time.
func (r *rig) meet(stores []store.Store, id stacyvm.SandboxID) []grant {
	history := make([]grant, raceContenders)
	start := make(chan struct{})
	var wait sync.WaitGroup
	for i := range history {
		holder := stacyvm.WorkerID(fmt.Sprintf("w%d", i))
		wait.Go(func() {
			<-start
			request := duty(string(id), holder, "s-"+string(holder))
			request.Type = "sandbox"
			lease, err := acquireOn(r.Context(), stores[i%len(stores)], request)
			history[i] = grant{holder, lease, err}
		})
	}
	close(start)
	wait.Wait()
	return history
}

// oneWinner checks that one contender won and all others met a conflict.
func (r *rig) oneWinner(round int, history []grant) (winner stacyvm.Lease) {
	for _, g := range history {
		switch {
		case g.err == nil && winner.Holder != "":
			r.Fatalf("round %d: %+v and %+v were granted", round, winner, g.lease)
		case g.err == nil:
			winner = g.lease
		case stacyvm.CodeOf(g.err) != stacyvm.CodeConflict:
			r.Fatalf("round %d: %s got %v", round, g.holder, g.err)
		}
	}
	if winner.Holder == "" {
		r.Fatalf("round %d: nobody won", round)
	}
	return winner
}

// writesCount checks that the winner's write is accepted and one of the epoch before it is not.
func (r *rig) writesCount(id stacyvm.SandboxID, before, winner stacyvm.Lease) {
	_, err := r.apply(id, stacyvm.Fence{Incarnation: 1, Epoch: before.Epoch}, store.Change{RuntimeID: "stale"})
	r.want(stacyvm.CodeStaleEpoch, err)
	row, err := r.apply(id, stacyvm.Fence{Incarnation: 1, Epoch: winner.Epoch}, store.Change{RuntimeID: fmt.Sprint(winner.Epoch)})
	r.must(err)
	if row.WorkerID != winner.Holder {
		r.Fatalf("the row belongs to %s, the lease to %s", row.WorkerID, winner.Holder)
	}
}
