//go:build cluster

package system

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
)

// The rules of leases, as the worker's documentation tells them.
const (
	leaseGrace = 10 * time.Second
	// between a worker's last act and the first moment at which another could be the owner
	mustGap = 10 * time.Second
)

// recordLeases has the database keep every change of a lease's owner, beside the product's tables.
func (c *cluster) recordLeases() {
	db := postgrestest.Connect(c, c.database.DSN)
	for _, step := range []string{
		`CREATE SCHEMA history`,
		`CREATE TABLE history.leases (n BIGSERIAL PRIMARY KEY, resource TEXT, kind TEXT, holder TEXT, session TEXT, epoch BIGINT,
			expires_us BIGINT, at_us BIGINT)`,
		`CREATE FUNCTION history.keep() RETURNS TRIGGER AS $$ BEGIN
			INSERT INTO history.leases (resource, kind, holder, session, epoch, expires_us, at_us) VALUES (NEW.resource_id, NEW.resource_type,
				NEW.holder_id, NEW.holder_session, NEW.epoch, NEW.expires_us, (EXTRACT(EPOCH FROM clock_timestamp()) * 1000000)::BIGINT);
			RETURN NULL; END $$ LANGUAGE plpgsql`,
		`CREATE TRIGGER history AFTER INSERT OR UPDATE ON leases FOR EACH ROW EXECUTE FUNCTION history.keep()`,
	} {
		if _, err := db.ExecContext(c.Context(), step); err != nil {
			c.Fatal(err)
		}
	}
}

// grant is one state of a lease.
type grant struct {
	Resource, Kind, Holder, Session string
	Epoch, ExpiresUS, AtUS          int64
}

// history reads what was recorded, oldest first.
func (c *cluster) history() []grant {
	c.Helper()
	rows, err := postgrestest.Connect(c, c.database.DSN).QueryContext(c.Context(), `SELECT resource, kind, COALESCE(holder, ''),
		COALESCE(session, ''), epoch, expires_us, at_us FROM history.leases ORDER BY n`)
	c.must(err)
	defer rows.Close()
	var all []grant
	for rows.Next() {
		var g grant
		c.must(rows.Scan(&g.Resource, &g.Kind, &g.Holder, &g.Session, &g.Epoch, &g.ExpiresUS, &g.AtUS))
		all = append(all, g)
	}
	c.must(rows.Err())
	return all
}

// term is one epoch of one sandbox or duty.
type term struct {
	resource string
	epoch    int64
}

// owner is who may act in a term.
type owner struct{ holder, session string }

// wantOneWriter judges the history: each epoch was granted to one process, epochs only grow, and
// nobody was given what another worker held before its time was over and the grace had passed. It
// gives who held what when.
func (c *cluster) wantOneWriter() map[term]owner {
	c.Helper()
	granted, last := map[term]owner{}, map[string]grant{}
	takeovers := 0
	for _, g := range c.history() {
		before, known := last[g.Resource]
		last[g.Resource] = g
		if known && g.Epoch < before.Epoch {
			c.Errorf("%s: epoch %d after %d", g.Resource, g.Epoch, before.Epoch)
		}
		if g.Holder == "" {
			continue // let go of
		}
		here, now := term{g.Resource, g.Epoch}, owner{g.Holder, g.Session}
		if was, ok := granted[here]; ok && was != now {
			c.Errorf("%s: epoch %d was granted to %v and to %v", g.Resource, g.Epoch, was, now)
		}
		granted[here] = now
		if known && before.Holder != "" && before.Holder != g.Holder {
			takeovers++
			if free := before.ExpiresUS + leaseGrace.Microseconds(); g.AtUS < free {
				c.Errorf("%s: %s took it from %s %v too early", g.Resource, g.Holder, before.Holder, time.Duration(free-g.AtUS)*time.Microsecond)
			}
		}
	}
	c.Logf("%d terms of %d leases, %d takeovers by another holder", len(granted), len(last), takeovers)
	if len(granted) == 0 {
		c.Error("no lease was recorded")
	}
	return granted
}

// journal reads the fences that a worker keeps for sandboxes that it has.
func (c *cluster) journal(dir string) map[string]int64 {
	c.Helper()
	fences := map[string]int64{}
	text, err := os.ReadFile(filepath.Join(dir, "data", "worker", "journal.log"))
	c.must(err)
	for line := range bytes.Lines(text) {
		fields := bytes.SplitN(line, []byte(" "), 3) // the sandbox, a checksum, and what was written of it
		if len(fields) < 3 || !bytes.HasSuffix(line, []byte("\n")) {
			continue // not finished
		}
		var kept struct {
			Record *struct {
				Fence struct{ Epoch json.Number }
			}
			Gone *struct{}
		}
		c.must(json.Unmarshal(fields[2], &kept))
		switch id := string(fields[0]); {
		case kept.Gone != nil:
			delete(fences, id)
		case kept.Record != nil:
			fences[id], err = kept.Record.Fence.Epoch.Int64()
			c.must(err)
		}
	}
	return fences
}

// wantJournals compares what workers believe with what was granted: every fence on a disk was its
// worker's, and no sandbox is on two disks.
func (c *cluster) wantJournals(granted map[term]owner) {
	c.Helper()
	at := map[string]string{}
	for _, w := range c.workers {
		for id, epoch := range c.journal(w.Dir) {
			if other := at[id]; other != "" {
				c.Errorf("%s is on %s and on %s", id, other, w.ID)
			}
			at[id] = w.ID
			if who := granted[term{id, epoch}]; who.holder != w.ID {
				c.Errorf("%s keeps epoch %d of %s, which was granted to %q", w.ID, epoch, id, who.holder)
			}
		}
	}
	if len(at) == 0 {
		c.Error("the workers' journals are empty")
	}
}

// runtimes lists what is on a worker's disk for its sandboxes, whatever the engine.
func (c *cluster) runtimes(dir string) map[string]bool {
	c.Helper()
	found := map[string]bool{}
	for _, pattern := range []string{"mock/*", "gvisor/sandboxes/*"} {
		paths, err := filepath.Glob(filepath.Join(dir, "data", "engines", pattern))
		c.must(err)
		for _, path := range paths {
			if id, _, _ := strings.Cut(filepath.Base(path), "."); strings.HasPrefix(id, "sb-") {
				found[id] = true
			}
		}
	}
	return found
}
