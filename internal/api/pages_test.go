package api_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/control/controltest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store"
)

// fill writes n running sandboxes, 25 at a time: those have one time of creation, and only their
// ids tell them apart.
func (f *fixture) fill(n int) {
	f.t.Helper()
	for range n / 25 {
		controltest.Update(f.t, f.store, func(tx store.Tx) error {
			for range 25 {
				if _, err := tx.Sandboxes().Insert(f.t.Context(), stacyvm.Sandbox{
					ID: stacyvm.NewSandboxID(), State: stacyvm.StateRunning, Desired: stacyvm.DesiredRunning, Provider: "mock",
					WorkerID: controltest.Self, Spec: stacyvm.Spec{TTL: time.Hour}, Fence: stacyvm.Fence{Incarnation: 1},
				}); err != nil {
					return err
				}
			}
			return nil
		})
	}
}

func idsOf(sandboxes []client.Sandbox) (ids []string) {
	for _, sandbox := range sandboxes {
		ids = append(ids, sandbox.ID)
	}
	return ids
}

// walk lists everything by pages, and calls between before each further one with the id of the
// last one seen.
func walk(t *testing.T, c *client.Client, limit int, between func(last string)) (seen []string) {
	t.Helper()
	for cursor := ""; ; {
		page, next, err := c.SandboxPage(t.Context(), cursor, limit)
		must(t, err)
		seen = append(seen, idsOf(page)...)
		if next == "" {
			return seen
		}
		if len(page) != limit {
			t.Fatalf("a page of %d with limit %d is not the last", len(page), limit)
		}
		between(seen[len(seen)-1])
		cursor = next
	}
}

// TestPages walks 250 sandboxes by pages. Then it does so while before each further page the last
// one that was seen, which is the place where the walk goes on, and the third after it are
// destroyed and a new one is made: those that stand from the first page to the last are seen once,
// in their order.
func TestPages(t *testing.T) {
	f := start(t, nil, nil)
	f.fill(250)
	c, ctx := f.public(), t.Context()
	all, err := c.Sandboxes(ctx)
	must(t, err)
	want := idsOf(all)
	for limit, pages := range map[int]int{1000: 1, 250: 1, 249: 2, 100: 3} {
		further := 0
		if seen := walk(t, c, limit, func(string) { further++ }); len(seen) != 250 || !slices.Equal(seen, want) || further != pages-1 {
			t.Errorf("limit %d: %d further pages, %q", limit, further, seen)
		}
	}
	seen := walk(t, c, 17, func(last string) {
		_, err := c.Spawn(ctx, client.SpawnRequest{})
		must(t, err)
		at := slices.Index(want, last)
		must(t, c.Destroy(ctx, last))
		must(t, c.Destroy(ctx, want[at+3]))
		want = slices.Delete(want, at+3, at+4)
	})
	if len(seen) != 250-13 || !slices.Equal(seen, want) {
		t.Errorf("%d were seen, want %d:\n%q\n%q", len(seen), len(want), seen, want)
	}
}

// TestAPageOfATenant: a cursor opens no door, it is a place in the caller's own list.
func TestAPageOfATenant(t *testing.T) {
	f := start(t, nil, nil)
	mine := f.spawn("X-Tenant-ID", "acme").ID
	f.spawn("X-Tenant-ID", "other")
	f.spawn("X-Tenant-ID", "other")
	const path = "/api/v1/sandboxes"
	cursor := f.do("GET", path+"?limit=1", nil, "X-Tenant-ID", "other").Header.Get("X-Next-Cursor")
	answer := f.do("GET", path+"?cursor="+cursor, nil, "X-Tenant-ID", "acme")
	var list []client.Sandbox
	answer.into(t, &list)
	if cursor == "" || !slices.Equal(idsOf(list), []string{mine}) || answer.Header.Get("X-Next-Cursor") != "" {
		t.Errorf("behind %q: %s", cursor, answer.text)
	}
	if none := f.do("GET", path+"?limit=5", nil, "X-Tenant-ID", "nobody"); none.text != "[]\n" || len(none.Header.Values("X-Next-Cursor")) != 0 {
		t.Errorf("an empty page: %q %v", none.text, none.Header)
	}
}
