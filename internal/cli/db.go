package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/dbtool"
)

func (a *app) dbCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "db",
		Short: "Back the database up, put it back, change its schema",
		Long: `Back the database up, put it back, change its schema. The database is the configuration's; with SQLite it
is a file in the data directory. docs/operations.md tells when to do what.`,
		Args: onlySubcommands,
		RunE: showHelp,
	}
	cmd.AddCommand(
		a.dbBackupCommand(),
		destroys(a.dbRestoreCommand()),
		a.dbMigrateCommand(),
		destroys(a.dbRaiseCommand()),
		a.dbDumpCommand(),
		a.dbRehearseCommand(),
	)
	return cmd
}

func (a *app) dbBackupCommand() *cobra.Command {
	var database string
	var force bool
	cmd := &cobra.Command{
		Use:   "backup OUT",
		Short: "Copy the SQLite database, also while a server runs",
		Long: `Copy the SQLite database as it is at one moment. A server may run and write meanwhile. The copy is one
file that only its owner may read; every page of it is checked, and its SHA-256 is written to OUT.sha256.

It holds the records, not what is in the sandboxes. It may hold secrets that were given to sandboxes.`,
		Example: `  stacyvm db backup /backup/stacyvm-$(date +%F).db`,
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.readConfig()
			if err != nil {
				return err
			}
			path, err := daemon.SQLiteFile(c, database)
			if err != nil {
				return tool(nil, "back up", err)
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			done := progress(a.stderr, "copying the database")
			made, err := dbtool.BackupSQLite(ctx, dbtool.BackupRequest{Database: path, Out: args[0], Force: force})
			done()
			if err != nil {
				return tool(ctx.Err(), "back up", err)
			}
			return a.say(
				"%s: %s, %d sandboxes, schema version %d, sha256 %s",
				args[0],
				byteSize(made.Bytes),
				made.Sandboxes,
				made.Schema,
				made.SHA256,
			)
		},
	}
	cmd.Flags().StringVar(&database, "database", "", "SQLite `file` (default: the configuration's)")
	cmd.Flags().BoolVar(&force, "force", false, "replace OUT if it exists")
	return cmd
}

func (a *app) dbRestoreCommand() *cobra.Command {
	var database string
	var yes bool
	cmd := &cobra.Command{
		Use:   "restore BACKUP",
		Short: "Put the SQLite database back from a backup",
		Long: `Put the SQLite database back from a backup. The server must be stopped; sandboxes go on meanwhile. The
backup is checked in full first, and what was there is kept beside it as FILE.pre-restore-TIME.

No sandbox is ended by it. At the next start those that the backup knows are taken up again, those that are newer are listed
as recovered after some 20 seconds, and those that are gone as unhealthy (lost).`,
		Example: `  stacyvm db restore /backup/stacyvm-2026-11-24.db --yes`,
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !yes {
				return errors.New("--yes: is needed, because the present database is replaced (a copy of it is kept)")
			}
			c, err := a.readConfig()
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			done := progress(a.stderr, "putting the database back")
			restored, err := daemon.RestoreDatabase(ctx, c, args[0], database)
			done()
			if err != nil {
				return tool(ctx.Err(), "restore", err)
			}
			return a.tellRestored(args[0], restored)
		},
	}
	cmd.Flags().StringVar(&database, "database", "", "SQLite `file` to put back (default: the configuration's)")
	cmd.Flags().BoolVar(&yes, "yes", false, "replace the present database")
	return cmd
}

func (a *app) tellRestored(backup string, r dbtool.Restored) error {
	if r.Unsummed {
		a.warn(
			"there is no %s.sha256: that the backup is unchanged could not be checked, only that it is whole",
			backup,
		)
	}
	schema := fmt.Sprintf("schema version %d", r.Schema)
	if r.Known != r.Schema {
		schema += fmt.Sprintf(", brought up to %d", r.Known)
	}
	err := a.say("restored %s: %d sandboxes, %s, incarnation %d", backup, r.Sandboxes, schema, r.Incarnation)
	if err == nil && r.Safety != "" {
		err = a.say("what was there before: %s", r.Safety)
	}
	return err
}

// readConfig reads the configuration for a tool, which works also where a server would refuse to
// start.
func (a *app) readConfig() (config.Config, error) {
	loaded, err := config.Read(a.configFile)
	return loaded.Config, err
}

// say prints a line of a result.
func (a *app) say(format string, values ...any) error {
	_, err := fmt.Fprintf(a.stdout, format+"\n", values...)
	return err
}

// tool is the error of a tool that was doing something, for who sits at the machine and may see
// its paths. interrupted is the error of its context.
func tool(interrupted error, doing string, err error) error {
	if interrupted != nil {
		return interrupted
	}
	var known *stacyvm.Error
	if errors.As(err, &known) && known.Message != "" {
		if known.Err != nil {
			return fmt.Errorf("%s: %s (%w)", doing, known.Message, known.Err)
		}
		return fmt.Errorf("%s: %s", doing, known.Message)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
