package doctor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon"
	"github.com/stacyvm/stacyvm/internal/store"
	"github.com/stacyvm/stacyvm/internal/store/dbtool"
)

// RehearsePostgres looks whether a server could use the configuration's PostgreSQL database, and
// changes nothing: that it answers, which steps of the schema are applied and which are pending,
// and whether the tables are there. An empty database passes.
func RehearsePostgres(ctx context.Context, c config.Config) []config.Check {
	const connection, migrations, tables = "database.connection", "database.migrations", "database.tables"
	found, err := dbtool.Inspect(ctx, daemon.StoreConfig(c))
	if err != nil {
		return []config.Check{
			config.Failed(connection, plain(err), "check the DSN, that the server runs, and that the user may log in"),
		}
	}
	checks := []config.Check{config.Passed(connection, "connected to "+found.Server)}
	applied := fmt.Sprintf("%d applied (version %d)", len(found.Applied), found.Present)
	switch {
	case found.Newer():
		checks = append(
			checks,
			config.Failed(
				migrations,
				fmt.Sprintf("%s; this program knows up to %d", applied, found.Known),
				"use the newer program",
			),
		)
	case len(found.Pending) > 0 && !found.Changeable:
		checks = append(
			checks,
			config.Failed(
				migrations,
				applied+"; "+pending(found)+"; the user may not create tables",
				"GRANT CREATE ON SCHEMA to the user",
			),
		)
	case len(found.Pending) > 0:
		checks = append(checks, config.Passed(migrations, applied+"; "+pending(found)))
	default:
		checks = append(checks, config.Passed(migrations, applied+"; none is pending"))
	}
	switch present := len(found.Tables) - len(found.Missing); {
	case len(found.Missing) > 0:
		checks = append(
			checks,
			config.Failed(
				tables,
				fmt.Sprintf("%d of %d; missing: %v", present, len(found.Tables), found.Missing),
				"restore a backup",
			),
		)
	case found.Present == 0:
		checks = append(checks, config.Passed(tables, "none yet: the first start makes them"))
	default:
		checks = append(
			checks,
			config.Passed(tables, fmt.Sprintf("%d of %d expected ones", present, len(found.Tables))),
		)
	}
	return checks
}

// Upgrade says what to rehearse.
type Upgrade struct {
	Config   config.Loaded
	Database string // a SQLite file; empty: the configuration's
	Output   string // where the backup before the upgrade is to go; empty: beside the database
	Doctor   bool   // look at the machine, too
}

// RehearseUpgrade looks whether this program could take over from the one that runs now: whether
// the configuration is fit for production, the database whole, its schema one that this program
// can bring up to date (tried on a copy), and whether there is room for a backup. It changes
// nothing. steps are what to do then.
func RehearseUpgrade(ctx context.Context, u Upgrade) (checks []config.Check, steps []string) {
	checks = config.Lint(u.Config, true)
	c := u.Config.Config
	if u.Database != "" {
		c.Database.Driver, c.Database.Path = "sqlite", u.Database
	}
	if c.Postgres() {
		u.Output = orElse(u.Output, "stacyvm-pre-upgrade.dump")
		checks = append(checks, RehearsePostgres(ctx, c)...)
	} else {
		u.Output = orElse(u.Output, filepath.Join(filepath.Dir(c.DatabasePath()), "stacyvm-pre-upgrade.db"))
		checks = append(checks, rehearseSQLite(ctx, c)...)
	}
	checks = append(checks, checkBackupDirectory(c, filepath.Dir(u.Output)), checkBackupOutput(u.Output))
	if u.Doctor {
		checks = append(checks, Run(ctx, c, false)...)
	}
	return checks, upgradeSteps(c, u.Output)
}

func orElse(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}

// rehearseSQLite checks the file and tries the pending steps on a copy of it.
func rehearseSQLite(ctx context.Context, c config.Config) []config.Check {
	const source, integrity = "database.source", "database.integrity"
	path := c.DatabasePath()
	found, err := dbtool.Inspect(ctx, daemon.StoreConfig(c))
	switch {
	case err != nil:
		return []config.Check{config.Failed(source, path+": "+plain(err), "name the database with --database")}
	case !found.Exists:
		return []config.Check{config.Failed(source, path+" is not there", "name the database with --database")}
	case found.Newer():
		return append([]config.Check{config.Passed(source, path)}, schemaChecks(found)...)
	}
	checks := []config.Check{
		config.Passed(
			source,
			fmt.Sprintf("%s: schema version %d, this program's %d", path, found.Present, found.Known),
		),
	}
	if err := dbtool.CheckSQLite(ctx, path); err != nil {
		return append(checks, config.Failed(integrity, plain(err), "put a backup back: `stacyvm db restore`"))
	}
	return append(checks, config.Passed(integrity, "every page and reference was checked"), tryUpgrade(ctx, c, found))
}

// tryUpgrade brings a copy up to date and throws it away.
func tryUpgrade(ctx context.Context, c config.Config, found dbtool.Schema) config.Check {
	const name = "database.upgrade"
	if len(found.Pending) == 0 {
		return config.Passed(name, "nothing is pending")
	}
	dir, err := os.MkdirTemp(filepath.Dir(c.DatabasePath()), ".rehearse-*")
	if err != nil {
		return config.Failed(name, plain(err), "make the database's directory writable, or make room")
	}
	defer func() { _ = os.RemoveAll(dir) }() // a copy
	copied := filepath.Join(dir, "copy.db")
	if _, err = dbtool.BackupSQLite(ctx, dbtool.BackupRequest{Database: c.DatabasePath(), Out: copied}); err == nil {
		var opened store.Store
		if opened, err = store.NewSQLiteStore(ctx, copied); err == nil {
			err = opened.Close()
		}
	}
	if err != nil {
		return config.Failed(
			name,
			pending(found)+": on a copy this failed: "+plain(err),
			"keep the present program and report this",
		)
	}
	return config.Passed(name, pending(found)+"; tried on a copy")
}

func checkBackupDirectory(c config.Config, dir string) config.Check {
	const name = "backup.directory"
	trial, err := os.CreateTemp(dir, ".rehearse-*")
	if err != nil {
		return config.Failed(name, plain(err), "make the directory, or name another with --backup-output")
	}
	_ = errors.Join(trial.Close(), os.Remove(trial.Name())) // an empty file
	var space syscall.Statfs_t
	if err := syscall.Statfs(dir, &space); err != nil {
		return config.Failed(name, plain(err), "name another directory with --backup-output")
	}
	free := int64(space.Bavail) * space.Bsize
	var size int64
	if info, err := os.Stat(c.DatabasePath()); err == nil && !c.Postgres() {
		size = info.Size()
	}
	if free < 2*size {
		return config.Failed(
			name,
			fmt.Sprintf("%s: %d MiB free, the database has %d", dir, free>>20, size>>20),
			"make room, or name another directory with --backup-output",
		)
	}
	return config.Passed(name, fmt.Sprintf("%s can be written, %.1f GiB free", dir, float64(free)/(1<<30)))
}

func checkBackupOutput(out string) config.Check {
	const name = "backup.output"
	_, err := os.Lstat(out)
	if errors.Is(err, os.ErrNotExist) {
		return config.Passed(name, out+" is free")
	}
	if err != nil {
		return config.Failed(name, plain(err), "name another file with --backup-output")
	}
	return config.Failed(name, out+" exists already", "name another file with --backup-output")
}

// upgradeSteps are what to do, and how to go back.
func upgradeSteps(c config.Config, out string) []string {
	backup, back := "stacyvm db backup "+out, "stacyvm db restore "+out+" --yes"
	if c.Postgres() {
		backup, back = "stacyvm db pg-backup "+out+" --format custom", "pg_restore --clean --if-exists of "+out+", then `stacyvm db raise-incarnation --yes`"
	}
	return []string{
		"back up, while the server runs: " + backup,
		"stop the server; its sandboxes and their commands go on",
		"put the new program in the place of the old one, and keep the old one",
		"start the server; it brings the schema up to date",
		"look: stacyvm doctor, stacyvm list",
		"to go back: stop the server, put the old program back, " + back + ", start the server",
	}
}
