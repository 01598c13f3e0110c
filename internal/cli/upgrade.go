package cli

import (
	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/doctor"
)

func (a *app) upgradeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "upgrade",
		Short: "Prepare a change to this version of the program",
		Args:  onlySubcommands,
		RunE:  showHelp,
	}
	cmd.AddCommand(a.upgradeRehearseCommand())
	return cmd
}

func (a *app) upgradeRehearseCommand() *cobra.Command {
	var u doctor.Upgrade
	cmd := a.withOutput(&cobra.Command{
		Use:   "rehearse",
		Short: "Look whether this program could take over from the one that runs now",
		Long: `Look whether this program could take over from the one that runs now, and change nothing: run it from the new
program, while the old one serves. It judges the configuration as for production, checks the whole database, tries the schema's
pending steps on a copy, and looks whether there is room for a backup. Then it says what to do.`,
		Example: `  ./stacyvm-new upgrade rehearse --backup-output /backup/stacyvm-pre-upgrade.db`,
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			loaded, err := config.Read(a.configFile)
			if err != nil {
				return err
			}
			u.Config = loaded
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			done := progress(a.stderr, "rehearsing")
			checks, steps := doctor.RehearseUpgrade(ctx, u)
			done()
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return a.tellUpgrade(checks, steps)
		},
	})
	cmd.Flags().StringVar(&u.Database, "database", "", "SQLite `file` (default: the configuration's database)")
	cmd.Flags().
		StringVar(&u.Output, "backup-output", "", "`file` for the backup before the upgrade (default: beside the database)")
	cmd.Flags().BoolVar(&u.Doctor, "include-doctor", false, "look at the machine, too, as `stacyvm doctor` does")
	return cmd
}

func (a *app) tellUpgrade(checks []config.Check, steps []string) error {
	if a.output == "json" {
		err := a.printJSON(struct {
			Checks []config.Check `json:"checks"`
			Steps  []string       `json:"steps"`
		}{checks, steps})
		if err != nil {
			return err
		}
		return failing("upgrade rehearse", checks)
	}
	if err := a.printCheckLines(checks); err != nil {
		return err
	}
	for i, step := range steps {
		if err := a.say("%d. %s", i+1, step); err != nil {
			return err
		}
	}
	return failing("upgrade rehearse", checks)
}
