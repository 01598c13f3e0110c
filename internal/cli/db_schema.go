package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/internal/daemon"
	"github.com/stacyvm/stacyvm/internal/store/dbtool"
)

func (a *app) dbMigrateCommand() *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Bring the database's schema up to date",
		Long: `Bring the database's schema up to date, each step in a transaction of its own. The start of a server does
the same; servers of the previous version go on with the new schema.`,
		Example: `  stacyvm db migrate --dry-run`,
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.readConfig()
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			if dry {
				found, err := dbtool.Inspect(ctx, daemon.StoreConfig(c))
				if err != nil {
					return tool(ctx.Err(), "look at the schema", err)
				}
				return a.tellSteps("pending", found, found)
			}
			done := progress(a.stderr, "bringing the schema up to date")
			before, after, err := dbtool.Migrate(ctx, daemon.StoreConfig(c))
			done()
			if err != nil {
				return tool(ctx.Err(), "migrate", err)
			}
			return a.tellSteps("applied", before, after)
		},
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "list the steps that would be applied, and change nothing")
	return cmd
}

// tellSteps lists the steps that were missing before, and how far the schema is now.
func (a *app) tellSteps(what string, before, now dbtool.Schema) error {
	for _, step := range before.Pending {
		if err := a.say("%s: %s", what, step.Name); err != nil {
			return err
		}
	}
	if now.Newer() {
		return tool(nil, "migrate", errors.New("a newer program has changed the schema: use that one"))
	}
	return a.say("schema version %d, this program knows %d", now.Present, now.Known)
}

func (a *app) dbRaiseCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:   "raise-incarnation",
		Short: "Tell the cluster that its database was put back by other programs",
		Long: `Tell the cluster that its database was put back from a backup by other programs, such as pg_restore. It
makes sure that running sandboxes which the backup does not know are kept, and that whoever acted before can no longer write.
"stacyvm db restore" does it by itself, and so does a server that finds its PostgreSQL on another timeline.

Every server of the database must be stopped.`,
		Example: "  stacyvm db raise-incarnation --yes --config /etc/stacyvm.yaml",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !yes {
				return errors.New("--yes: is needed; every server of the database must be stopped")
			}
			c, err := a.readConfig()
			if err != nil {
				return err
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			incarnation, err := daemon.RaiseIncarnation(ctx, c)
			if err != nil {
				return tool(ctx.Err(), "raise the incarnation", err)
			}
			return a.say("incarnation %d", incarnation)
		},
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "no server of this database runs")
	return cmd
}
