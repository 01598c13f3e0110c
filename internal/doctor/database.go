package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon"
	"github.com/stacyvm/stacyvm/internal/store/dbtool"
)

// doctorDatabase looks at the database that the configuration names. A server may use it
// meanwhile.
func doctorDatabase(ctx context.Context, c config.Config, production bool) []config.Check {
	found, err := dbtool.Inspect(ctx, daemon.StoreConfig(c))
	if c.Postgres() {
		const name, fix = "database.driver", "check database.dsn, that the server runs, and that the user may log in"
		if err != nil {
			return []config.Check{config.Failed(name, "postgres: "+plain(err), fix)}
		}
		checks := []config.Check{config.Passed(name, "connected to "+found.Server)}
		if found.Blind != "" {
			checks = append(checks, config.Warned("database.history", found.Blind, daemon.HistoryFix))
		}
		return append(checks, schemaChecks(found)...)
	}
	checks := []config.Check{checkDatabasePath(c, production)}
	if err != nil {
		return append(checks, config.Failed("database.schema", plain(err), "put a backup back: `stacyvm db restore`"))
	}
	return append(append(checks, schemaChecks(found)...), checkSync(filepath.Dir(c.DatabasePath())))
}

func checkDatabasePath(c config.Config, production bool) config.Check {
	const name = "database.path"
	path := c.DatabasePath()
	info, err := os.Stat(filepath.Dir(path))
	switch {
	case errors.Is(err, os.ErrNotExist) && production:
		return config.Failed(
			name,
			"the directory of "+path+" is not there",
			"make it on a local disk, or correct database.path",
		)
	case errors.Is(err, os.ErrNotExist):
		return config.Warned(
			name,
			"the directory of "+path+" is not there",
			"`stacyvm serve` makes it; check the spelling",
		)
	case err != nil:
		return config.Failed(name, plain(err), "set database.path to a file on a local disk")
	case !info.IsDir():
		return config.Failed(
			name,
			filepath.Dir(path)+" is not a directory",
			"set database.path to a file on a local disk",
		)
	case !filepath.IsAbs(path):
		return config.Warned(
			name,
			path+" is relative: it depends on where the server is started",
			"set database.path to an absolute path",
		)
	}
	return config.Passed(name, path)
}

// schemaChecks judge a database that answers.
func schemaChecks(s dbtool.Schema) []config.Check {
	const name = "database.schema"
	switch {
	case s.Newer():
		return []config.Check{
			config.Failed(
				name,
				fmt.Sprintf("version %d; this program knows up to %d: a newer one has changed it", s.Present, s.Known),
				"use the newer program, or restore the backup from before the upgrade",
			),
		}
	case len(s.Missing) > 0:
		return []config.Check{
			config.Failed(name, "tables are missing: "+strings.Join(s.Missing, ", "), "restore a backup"),
		}
	case len(s.Pending) > 0 && !s.Changeable:
		return []config.Check{
			config.Failed(
				name,
				pending(s)+", and the user may not change the schema",
				"let the user create tables there: GRANT CREATE ON SCHEMA",
			),
		}
	case s.Present == 0:
		return []config.Check{config.Passed(name, "empty: the first start makes "+pending(s))}
	case len(s.Pending) > 0:
		return []config.Check{
			config.Warned(
				name,
				fmt.Sprintf("version %d; %s", s.Present, pending(s)),
				"back up, then `stacyvm db migrate`; the next start does it too. `stacyvm upgrade rehearse` tries it first",
			),
		}
	}
	return []config.Check{
		config.Passed(name, fmt.Sprintf("version %d, up to date; incarnation %d", s.Present, s.Cluster.Incarnation)),
	}
}

// pending names the steps that are not applied.
func pending(s dbtool.Schema) string {
	names := make([]string, len(s.Pending))
	for i, step := range s.Pending {
		names[i] = step.Name
	}
	return fmt.Sprintf("%d pending step(s): %s", len(names), strings.Join(names, ", "))
}

// syncs is how often the disk is tried.
const syncs = 21

// checkSync tells how long a small write takes to reach the disk: with SQLite every create waits
// for it.
func checkSync(dir string) config.Check {
	const name = "database.sync"
	file, err := os.CreateTemp(dir, ".sync-*")
	if err != nil {
		return config.Passed(name, "not timed: "+plain(err)) // the path's check judges
	}
	defer func() { _ = errors.Join(file.Close(), os.Remove(file.Name())) }()
	var times []time.Duration
	for range syncs {
		began := time.Now()
		if _, err = file.Write(make([]byte, 4096)); err == nil {
			err = file.Sync()
		}
		if err != nil {
			return config.Passed(name, "not timed: "+plain(err))
		}
		times = append(times, time.Since(began))
	}
	slices.Sort(times)
	return config.Passed(
		name,
		fmt.Sprintf(
			"a write reaches this disk in %s (median of %d)",
			times[len(times)/2].Round(10*time.Microsecond),
			syncs,
		),
	)
}
