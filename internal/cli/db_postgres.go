package cli

import (
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/doctor"
	"github.com/stacyvm/stacyvm/internal/store/dbtool"
)

// aboutDSN explains --dsn, which commands for PostgreSQL have.
const aboutDSN = "PostgreSQL `address` (default: database.dsn). Other users of this machine can see it here: better set STACYVM_DATABASE_DSN"

// postgresConfig is the configuration with the database that --dsn names, or its own.
func (a *app) postgresConfig(dsn string) (config.Config, error) {
	c, err := a.readConfig()
	if dsn != "" {
		c.Database.DSN, c.Database.ListenDSN = dsn, ""
	}
	if err == nil && c.Database.DSN == "" {
		err = errors.New("--dsn: is needed, because database.dsn is not set")
	}
	c.Database.Driver = "postgres"
	return c, err
}

func (a *app) dbDumpCommand() *cobra.Command {
	var dsn, format string
	cmd := &cobra.Command{
		Use:   "pg-backup OUT",
		Short: "Copy the PostgreSQL database with pg_dump, also while servers run",
		Long: `Copy the PostgreSQL database with pg_dump as it is at one moment. Servers may run and write meanwhile. The
copy is for its owner alone, and its SHA-256 is written to OUT.sha256. The address reaches pg_dump in memory only; it is
never on a command line, and never printed.

psql (format plain) or pg_restore puts it back; then run "stacyvm db raise-incarnation".`,
		Example: `  STACYVM_DATABASE_DSN=postgres://... stacyvm db pg-backup /backup/stacyvm.dump --format custom`,
		Args:    arguments(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.postgresConfig(dsn)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			done := progress(a.stderr, "copying the database")
			made, err := dbtool.DumpPostgres(
				ctx,
				dbtool.DumpRequest{DSN: c.Database.DSN, Out: args[0], Format: format},
			)
			done()
			if err != nil {
				return tool(ctx.Err(), "back up", err)
			}
			return a.say("%s: %s in %d file(s), format %s", args[0], byteSize(made.Bytes), made.Files, format)
		},
	}
	cmd.Flags().StringVar(&dsn, "dsn", "", aboutDSN)
	cmd.Flags().StringVar(&format, "format", "plain", "`format`: "+strings.Join(dbtool.DumpFormats, ", "))
	must(
		cmd.RegisterFlagCompletionFunc(
			"format",
			cobra.FixedCompletions(dbtool.DumpFormats, cobra.ShellCompDirectiveNoFileComp),
		),
	)
	return cmd
}

func (a *app) dbRehearseCommand() *cobra.Command {
	var dsn string
	cmd := a.withOutput(&cobra.Command{
		Use:   "pg-rehearse",
		Short: "Look whether a server could use the PostgreSQL database",
		Long: `Look whether a server could use the PostgreSQL database, and change nothing: that it answers, which steps of
the schema are applied and which are pending, and that the tables are there. An empty database passes.`,
		Example: "  stacyvm db pg-rehearse --config /etc/stacyvm.yaml",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.postgresConfig(dsn)
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			return a.printChecks("db pg-rehearse", doctor.RehearsePostgres(ctx, c))
		},
	})
	cmd.Flags().StringVar(&dsn, "dsn", "", aboutDSN)
	return cmd
}
