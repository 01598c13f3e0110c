package storetest

import (
	"context"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

func createEnvironment(e stacyvm.Environment) step[stacyvm.Environment] {
	return func(ctx context.Context, tx store.Tx) (stacyvm.Environment, error) {
		return tx.Environments().Create(ctx, e)
	}
}

func environmentLife(r *rig) {
	first := stacyvm.Environment{
		ID: "e1", OwnerID: "ann", Name: "science", BaseImage: "py:3", PythonPackages: []string{"numpy>=2"}, AptPackages: []string{"git"}, PythonVersion: "3.13",
	}
	get := func(id stacyvm.EnvironmentID) step[stacyvm.Environment] {
		return func(ctx context.Context, tx store.Tx) (stacyvm.Environment, error) {
			return tx.Environments().Get(ctx, id)
		}
	}
	update := func(e stacyvm.Environment) step[stacyvm.Environment] {
		return func(ctx context.Context, tx store.Tx) (stacyvm.Environment, error) {
			return tx.Environments().Update(ctx, e)
		}
	}
	kept := done(r, createEnvironment(first))
	first.CreatedAt, first.UpdatedAt = kept.CreatedAt, kept.CreatedAt
	same(r, first, kept)
	same(r, first, done(r, get("e1")))
	refused(r, stacyvm.CodeConflict, createEnvironment(stacyvm.Environment{ID: "e2", OwnerID: "ann", Name: "science"}))
	refused(r, stacyvm.CodeConflict, createEnvironment(stacyvm.Environment{ID: "e1", OwnerID: "bob", Name: "other"}))
	done(r, createEnvironment(stacyvm.Environment{ID: "e2", OwnerID: "bob", Name: "science"})) // another owner's
	done(r, createEnvironment(stacyvm.Environment{ID: "e3", OwnerID: "ann", Name: "web"}))

	r.clock.advance(time.Second)
	changed := done(r, update(stacyvm.Environment{ID: "e1", OwnerID: "eve", Name: "art", BaseImage: "py:4"}))
	same(r, stacyvm.Environment{ID: "e1", OwnerID: "ann", Name: "art", BaseImage: "py:4", CreatedAt: first.CreatedAt, UpdatedAt: changed.UpdatedAt}, done(r, get("e1")))
	refused(r, stacyvm.CodeConflict, update(stacyvm.Environment{ID: "e1", Name: "web"}))
	refused(r, stacyvm.CodeNotFound, update(stacyvm.Environment{ID: "e9", Name: "web"}))
	refused(r, stacyvm.CodeNotFound, get("e9"))
	done(r, func(ctx context.Context, tx store.Tx) (last stacyvm.Environment, err error) { // one time for all of them
		for _, id := range []string{"e4", "e5", "e6"} {
			if last, err = tx.Environments().Create(ctx, stacyvm.Environment{ID: stacyvm.EnvironmentID(id), OwnerID: "ann", Name: id}); err != nil {
				return last, err
			}
		}
		return last, nil
	})
	walk(r, func(e stacyvm.Environment) store.Cursor {
		return store.Cursor{CreatedAt: e.CreatedAt, ID: string(e.ID)}
	}, []string{"e6", "e5", "e4", "e3", "e1"},
		func(ctx context.Context, tx store.Tx, page store.Page) ([]stacyvm.Environment, error) {
			return tx.Environments().List(ctx, "ann", page)
		})
	remove := nothing(func(ctx context.Context, tx store.Tx) error { return tx.Environments().Delete(ctx, "e1") })
	done(r, remove)
	refused(r, stacyvm.CodeNotFound, remove)
}

func createBuild(b stacyvm.Build) step[stacyvm.Build] {
	return func(ctx context.Context, tx store.Tx) (stacyvm.Build, error) { return tx.Builds().Create(ctx, b) }
}

func buildLife(r *rig) {
	done(r, createEnvironment(stacyvm.Environment{ID: "e1", OwnerID: "ann", Name: "a"}))
	done(r, createEnvironment(stacyvm.Environment{ID: "e2", OwnerID: "ann", Name: "b"}))
	get := func(id stacyvm.BuildID) step[stacyvm.Build] {
		return func(ctx context.Context, tx store.Tx) (stacyvm.Build, error) { return tx.Builds().Get(ctx, id) }
	}
	update := func(b stacyvm.Build) step[stacyvm.Build] {
		return func(ctx context.Context, tx store.Tx) (stacyvm.Build, error) { return tx.Builds().Update(ctx, b) }
	}
	refused(r, stacyvm.CodeNotFound, createBuild(stacyvm.Build{ID: "b1", EnvironmentID: "e9"}))
	first := done(r, createBuild(stacyvm.Build{ID: "b1", EnvironmentID: "e1", OwnerID: "eve", Status: stacyvm.BuildQueued, Step: "queued"}))
	want := stacyvm.Build{
		ID: "b1", EnvironmentID: "e1", OwnerID: "ann", Status: stacyvm.BuildQueued, Step: "queued", CreatedAt: first.CreatedAt, UpdatedAt: first.CreatedAt,
	}
	same(r, want, first)
	refused(r, stacyvm.CodeConflict, createBuild(stacyvm.Build{ID: "b1", EnvironmentID: "e1"}))

	r.clock.advance(time.Second)
	ended := first.CreatedAt.Add(time.Minute)
	changed := done(r, update(stacyvm.Build{
		ID: "b1", Status: stacyvm.BuildReady, Step: "finalize", Log: "line\n", ImageBytes: 1 << 40, DigestLocal: "sha256:1", Error: "e", FinishedAt: ended,
	}))
	want.Status, want.Step, want.Log, want.ImageBytes, want.DigestLocal, want.Error = stacyvm.BuildReady, "finalize", "line\n", 1<<40, "sha256:1", "e"
	want.FinishedAt, want.UpdatedAt = ended, changed.UpdatedAt
	same(r, want, changed)
	same(r, want, done(r, get("b1")))
	for _, status := range []stacyvm.BuildStatus{stacyvm.BuildQueued, stacyvm.BuildRunning, stacyvm.BuildReady, stacyvm.BuildFailed, stacyvm.BuildCanceled} {
		id := stacyvm.BuildID("by " + status)
		done(r, createBuild(stacyvm.Build{ID: id, EnvironmentID: "e2", Status: status}))
		if cancel := update(stacyvm.Build{ID: id, Status: stacyvm.BuildCanceled}); status.Final() {
			refused(r, stacyvm.CodeConflict, cancel)
		} else {
			done(r, cancel)
		}
	}
	refused(r, stacyvm.CodeNotFound, update(stacyvm.Build{ID: "b9"}))
	refused(r, stacyvm.CodeNotFound, get("b9"))
	buildLists(r)
	done(r, nothing(func(ctx context.Context, tx store.Tx) error { return tx.Environments().Delete(ctx, "e2") }))
	refused(r, stacyvm.CodeNotFound, get("by ready")) // gone with its environment
	done(r, get("b1"))
}

func buildLists(r *rig) {
	walkBuilds := func(filter store.BuildFilter, want ...string) {
		r.Helper()
		walk(r, func(b stacyvm.Build) store.Cursor { return store.Cursor{CreatedAt: b.CreatedAt, ID: string(b.ID)} }, want,
			func(ctx context.Context, tx store.Tx, page store.Page) ([]stacyvm.Build, error) {
				filter.Page = page
				return tx.Builds().List(ctx, filter)
			})
	}
	walkBuilds(store.BuildFilter{Owner: "ann"}, "by canceled", "by failed", "by ready", "by building", "by queued", "b1")
	walkBuilds(store.BuildFilter{Environment: "e1"}, "b1")
	walkBuilds(store.BuildFilter{Owner: "eve"})
	walkBuilds(store.BuildFilter{})
}

func artifactLife(r *rig) {
	done(r, createEnvironment(stacyvm.Environment{ID: "e1", OwnerID: "ann", Name: "a"}))
	for _, id := range []stacyvm.BuildID{"b1", "b2", "b3"} {
		done(r, createBuild(stacyvm.Build{ID: id, EnvironmentID: "e1", Status: stacyvm.BuildQueued}))
	}
	save := func(a stacyvm.Artifact) step[stacyvm.Artifact] {
		return func(ctx context.Context, tx store.Tx) (stacyvm.Artifact, error) {
			return tx.Builds().SaveArtifact(ctx, a)
		}
	}
	list := func(of ...stacyvm.BuildID) []stacyvm.Artifact {
		return done(r, func(ctx context.Context, tx store.Tx) ([]stacyvm.Artifact, error) {
			return tx.Builds().Artifacts(ctx, of...)
		})
	}
	refused(r, stacyvm.CodeNotFound, save(stacyvm.Artifact{BuildID: "b9", Target: "local"}))
	local := done(r, save(stacyvm.Artifact{BuildID: "b1", Target: "local", ImageRef: "a:1", Status: "pending"}))
	ghcr := done(r, save(stacyvm.Artifact{BuildID: "b1", Target: "ghcr", Status: "pending"}))
	other := done(r, save(stacyvm.Artifact{BuildID: "b2", Target: "local", Status: "failed", Error: "e"}))
	r.clock.advance(time.Second)
	again := done(r, save(stacyvm.Artifact{BuildID: "b1", Target: "local", ImageRef: "a:2", Digest: "sha256:2", Status: "ready"}))
	same(r, stacyvm.Artifact{
		BuildID: "b1", Target: "local", ImageRef: "a:2", Digest: "sha256:2", Status: "ready", CreatedAt: local.CreatedAt, UpdatedAt: again.UpdatedAt,
	}, again)
	same(r, []stacyvm.Artifact{ghcr, again, other}, list("b2", "b1", "b1", "b3"))
	same(r, []stacyvm.Artifact{other}, list("b2"))
	same(r, nil, list())
}

func connectionLife(r *rig) {
	save := func(c stacyvm.Connection) step[stacyvm.Connection] {
		return func(ctx context.Context, tx store.Tx) (stacyvm.Connection, error) {
			return tx.Connections().Save(ctx, c)
		}
	}
	get := func(id stacyvm.ConnectionID) step[stacyvm.Connection] {
		return func(ctx context.Context, tx store.Tx) (stacyvm.Connection, error) {
			return tx.Connections().Get(ctx, id)
		}
	}
	account := stacyvm.Connection{ID: "c1", OwnerID: "ann", Provider: "ghcr", Username: "ann", SecretRef: "vault:1", Default: true}
	first := done(r, save(account))
	account.CreatedAt, account.UpdatedAt = first.CreatedAt, first.CreatedAt
	same(r, account, done(r, get("c1")))

	r.clock.advance(time.Second)
	second := done(r, save(stacyvm.Connection{ID: "c2", OwnerID: "ann", Provider: "ghcr", Username: "ann", SecretRef: "vault:2"}))
	same(r, stacyvm.Connection{
		ID: "c1", OwnerID: "ann", Provider: "ghcr", Username: "ann", SecretRef: "vault:2", CreatedAt: first.CreatedAt, UpdatedAt: second.UpdatedAt,
	}, second) // the account keeps its id
	refused(r, stacyvm.CodeNotFound, get("c2"))
	refused(r, stacyvm.CodeConflict, save(stacyvm.Connection{ID: "c1", OwnerID: "bob", Provider: "ghcr", Username: "bob"}))

	// Of an owner's accounts at a provider one is the default.
	for _, c := range []stacyvm.Connection{
		{ID: "c2", OwnerID: "ann", Provider: "ghcr", Username: "work", Default: true},
		{ID: "c3", OwnerID: "ann", Provider: "dockerhub", Username: "ann", Default: true},
		{ID: "c4", OwnerID: "bob", Provider: "ghcr", Username: "bob", Default: true},
		{ID: "c1", OwnerID: "ann", Provider: "ghcr", Username: "ann", Default: true},
	} {
		done(r, save(c))
	}
	for id, want := range map[stacyvm.ConnectionID]bool{"c1": true, "c2": false, "c3": true, "c4": true} {
		if got := done(r, get(id)); got.Default != want {
			r.Errorf("%s is the default: %v", id, got.Default)
		}
	}
	walk(r, func(c stacyvm.Connection) store.Cursor { return store.Cursor{CreatedAt: c.CreatedAt, ID: string(c.ID)} }, []string{"c3", "c2", "c1"},
		func(ctx context.Context, tx store.Tx, page store.Page) ([]stacyvm.Connection, error) {
			return tx.Connections().List(ctx, "ann", page)
		})
	remove := nothing(func(ctx context.Context, tx store.Tx) error { return tx.Connections().Delete(ctx, "c1") })
	done(r, remove)
	refused(r, stacyvm.CodeNotFound, remove)
}
