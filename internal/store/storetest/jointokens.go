package storetest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// keepTokens is how long after its end a token is kept.
const keepTokens = time.Minute

func createJoinToken(j stacyvm.JoinToken) step[stacyvm.JoinToken] {
	return func(ctx context.Context, tx store.Tx) (stacyvm.JoinToken, error) {
		return tx.JoinTokens().Create(ctx, j)
	}
}

func useJoinToken(id string, worker stacyvm.WorkerID) step[stacyvm.JoinToken] {
	return func(ctx context.Context, tx store.Tx) (stacyvm.JoinToken, error) {
		return tx.JoinTokens().Use(ctx, id, worker)
	}
}

// joinToken is one that lives for an hour, by a clock that is not the database's.
func joinToken(id string) stacyvm.JoinToken {
	elsewhere := time.Unix(1_000_000, 0)
	return stacyvm.JoinToken{ID: id, Hash: sha256.Sum256([]byte(id)), Worker: "rack1-*", CreatedAt: elsewhere, ExpiresAt: elsewhere.Add(time.Hour)}
}

func joinTokenLife(r *rig) {
	get := func(id string) step[stacyvm.JoinToken] {
		return func(ctx context.Context, tx store.Tx) (stacyvm.JoinToken, error) {
			return tx.JoinTokens().Get(ctx, id)
		}
	}
	remove := func(id string) step[struct{}] {
		return nothing(func(ctx context.Context, tx store.Tx) error { return tx.JoinTokens().Delete(ctx, id) })
	}
	purge := func(ctx context.Context, tx store.Tx) (int, error) { return tx.JoinTokens().Purge(ctx, keepTokens) }
	first := done(r, createJoinToken(joinToken("j1")))
	now := done(r, func(ctx context.Context, tx store.Tx) (time.Time, error) { return tx.Now(ctx) })
	if age := now.Sub(first.CreatedAt); age < 0 || age > time.Minute {
		r.Errorf("made %s ago, by the database's clock", age)
	}
	want := stacyvm.JoinToken{ID: "j1", Hash: sha256.Sum256([]byte("j1")), Worker: "rack1-*", CreatedAt: first.CreatedAt, ExpiresAt: first.CreatedAt.Add(time.Hour)}
	same(r, want, done(r, get("j1")))
	refused(r, stacyvm.CodeConflict, createJoinToken(joinToken("j1")))
	refused(r, stacyvm.CodeNotFound, get("j9"))
	for _, id := range []string{"j2", "j3", "j4"} {
		r.clock.advance(time.Second)
		done(r, createJoinToken(joinToken(id)))
	}
	walk(r, func(j stacyvm.JoinToken) store.Cursor { return store.Cursor{CreatedAt: j.CreatedAt, ID: j.ID} }, []string{"j4", "j3", "j2", "j1"},
		func(ctx context.Context, tx store.Tx, page store.Page) ([]stacyvm.JoinToken, error) {
			return tx.JoinTokens().List(ctx, page)
		})

	used := done(r, useJoinToken("j1", "rack1-7"))
	if age := used.UsedAt.Sub(first.CreatedAt); age < 3*time.Second || age > time.Minute {
		r.Errorf("used %s after it was made", age)
	}
	want.UsedAt, want.UsedBy = used.UsedAt, "rack1-7"
	same(r, want, used)
	same(r, want, done(r, get("j1")))
	refused(r, stacyvm.CodeConflict, useJoinToken("j1", "rack1-7"))
	refused(r, stacyvm.CodeConflict, useJoinToken("j9", "rack1-7"))
	same(r, want, done(r, get("j1")))

	done(r, remove("j2"))
	refused(r, stacyvm.CodeNotFound, remove("j2"))
	refused(r, stacyvm.CodeConflict, useJoinToken("j2", "rack1-7"))
	r.clock.advance(time.Hour - time.Second) // j3 has expired, j4 has a second left, or less
	refused(r, stacyvm.CodeConflict, useJoinToken("j3", "rack1-8"))
	if unused := done(r, get("j3")); !unused.UsedAt.IsZero() || unused.UsedBy != "" {
		r.Errorf("a refused use changed %+v", unused)
	}
	if n := done(r, purge); n != 0 {
		r.Errorf("%d were forgotten too early", n)
	}
	r.clock.advance(keepTokens + time.Minute)
	if n := done(r, purge); n != 3 {
		r.Errorf("%d were forgotten", n)
	}
	refused(r, stacyvm.CodeNotFound, get("j3"))
}

// joinTokenRaces: of many workers on several connections one gets a token, and the record says
// which.
func joinTokenRaces(r *rig) {
	stores := []store.Store{r.Store, r.another(), r.another()}
	for round := range testneed.Often(20, 200) {
		id := fmt.Sprint("j", round)
		done(r, createJoinToken(joinToken(id)))
		var winner atomic.Value
		var winners atomic.Int32
		var racing sync.WaitGroup
		for i := range raceContenders {
			worker := stacyvm.WorkerID(fmt.Sprint("w", i))
			racing.Go(func() {
				err := stores[i%len(stores)].Update(r.Context(), func(tx store.Tx) error {
					_, err := tx.JoinTokens().Use(r.Context(), id, worker)
					return err
				})
				if err == nil {
					winners.Add(1)
					winner.Store(worker)
				} else {
					r.want(stacyvm.CodeConflict, err)
				}
			})
		}
		racing.Wait()
		kept := done(r, func(ctx context.Context, tx store.Tx) (stacyvm.JoinToken, error) {
			return tx.JoinTokens().Get(ctx, id)
		})
		if winners.Load() != 1 || kept.UsedBy != winner.Load() {
			r.Fatalf("%d workers got the token, the last one %v; it says %s", winners.Load(), winner.Load(), kept.UsedBy)
		}
	}
}
