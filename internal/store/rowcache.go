package store

import (
	"context"
	"encoding/json"
	"sync"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqldb"
)

// maxCachedRows and maxCachedBytes bound a rowCache: the bytes are those of texts, and each row
// takes about 600 beside them.
const (
	maxCachedRows  = 10_000
	maxCachedBytes = 16 << 20
)

// rowCache keeps decoded rows of sandboxes for lists, which ask the database for the versions of
// their rows each time: a row is used while it has the version that the database tells. So the
// cache needs to hear of no write, in this process or another.
//
// Where the store is alone it hears of all writes, and its rows are used without asking: a commit
// removes what it changes before it begins, and no row that was read before its end is put in
// after that.
type rowCache struct {
	alone bool

	mu      sync.Mutex
	rows    map[stacyvm.SandboxID]cachedRow
	bytes   int
	changes uint64 // counts the begins and ends of commits
	commit  bool   // one is under way
	closed  bool
}

func newRowCache() *rowCache { return &rowCache{rows: map[stacyvm.SandboxID]cachedRow{}} }

// commits implements sqlite.Commits.
func (c *rowCache) commits(touched sqldb.Touched) (ended func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.changes++
	c.commit = true
	for _, id := range touched.IDs {
		c.remove(stacyvm.SandboxID(id))
	}
	if touched.All {
		clear(c.rows)
		c.bytes = 0
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.changes++
		c.commit = false
	}
}

// current gives a row as it is now, where the cache can tell.
func (c *rowCache) current(id stacyvm.SandboxID) (stacyvm.Sandbox, bool) {
	if !c.alone {
		return stacyvm.Sandbox{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	row, ok := c.rows[id]
	return row.Sandbox, ok
}

// began is what a read that puts rows in remembers.
func (c *rowCache) began() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changes
}

// close forgets the rows; none is put in after it.
func (c *rowCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	clear(c.rows)
}

type cachedRow struct {
	stacyvm.Sandbox
	bytes int
}

// version names a state of a row: each change moves updated_us on, or is another owner's and
// raises the fence. A database that lost commits has another incarnation.
type version struct {
	id        stacyvm.SandboxID
	fence     stacyvm.Fence
	updatedUS int64
}

func readVersion(row sqldb.Scanner) (v version, err error) {
	err = row.Scan((*string)(&v.id), &v.fence.Incarnation, &v.fence.Epoch, &v.updatedUS)
	return v, err
}

// find gives the rows of versions, or those that it lacks.
func (c *rowCache) find(versions []version) (rows []stacyvm.Sandbox, missing []stacyvm.SandboxID) {
	if len(versions) == 0 {
		return nil, nil
	}
	rows = make([]stacyvm.Sandbox, 0, len(versions))
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, v := range versions {
		row, ok := c.rows[v.id]
		if ok && row.Fence == v.fence && row.UpdatedAt.UnixMicro() == v.updatedUS {
			rows = append(rows, row.Sandbox)
		} else {
			missing = append(missing, v.id)
		}
	}
	return rows, missing
}

// put keeps rows whose reading began when began gave since.
func (c *rowCache) put(rows []stacyvm.Sandbox, since uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.commit || since != c.changes {
		return
	}
	for _, row := range rows {
		c.remove(row.ID)
		for id := range c.rows {
			if len(c.rows) < maxCachedRows && c.bytes < maxCachedBytes {
				break
			}
			c.remove(id) // whichever comes first
		}
		bytes := textBytes(row)
		c.rows[row.ID] = cachedRow{row, bytes}
		c.bytes += bytes
	}
}

func (c *rowCache) remove(id stacyvm.SandboxID) {
	c.bytes -= c.rows[id].bytes
	delete(c.rows, id)
}

// textBytes is the size of a row's texts that have no small bound.
func textBytes(s stacyvm.Sandbox) (n int) {
	n = len(s.Detail)
	for _, m := range []map[string]string{s.Metadata, s.Spec.Env, s.Spec.Selector} {
		for name, value := range m {
			n += len(name) + len(value)
		}
	}
	return n
}

// listCached is List by way of the versions.
func (t sandboxes) listCached(ctx context.Context, filter SandboxFilter, cache *rowCache) ([]stacyvm.Sandbox, error) {
	c, err := t.filter(ctx, filter)
	if err != nil {
		return nil, err
	}
	since := cache.began()
	text := `SELECT id, incarnation, fence, updated_us FROM sandboxes` + c.newest(filter.Page)
	versions, err := sqldb.All(ctx, t.Tx, readVersion, text, c.args...)
	if err != nil {
		return nil, err
	}
	rows, missing := cache.find(versions)
	if n := len(missing); n > 0 && n <= len(versions)/2 {
		fresh, err := t.named(ctx, missing)
		if err != nil {
			return nil, err
		}
		cache.put(fresh, since)
		rows, missing = cache.find(versions)
	}
	if len(missing) == 0 {
		return rows, nil
	}
	// Too many are missing, or one has changed since its version was read.
	rows, err = t.List(ctx, filter)
	if err == nil {
		cache.put(rows, since)
	}
	return rows, err
}

// named reads rows by their ids.
func (t sandboxes) named(ctx context.Context, ids []stacyvm.SandboxID) ([]stacyvm.Sandbox, error) {
	members := make(map[stacyvm.SandboxID]string, len(ids))
	for _, id := range ids {
		members[id] = ""
	}
	names, err := json.Marshal(members)
	if err != nil {
		return nil, err
	}
	wanted := t.Dialect.Members(`$1`)
	text := `SELECT ` + sandboxColumns + ` FROM sandboxes WHERE id IN (SELECT key FROM ` + wanted + `)`
	return sqldb.All(ctx, t.Tx, readSandbox, text, string(names))
}
