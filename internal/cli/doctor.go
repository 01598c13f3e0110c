package cli

import (
	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/doctor"
)

func (a *app) doctorCommand() *cobra.Command {
	var production bool
	cmd := a.withOutput(&cobra.Command{
		Use:   "doctor",
		Short: "Tell what works on this machine, what does not and what to do",
		Long: `Tell what works on this machine, what does not and what to do about it. A trial sandbox is started and
removed. The exit code is 1 when something fails that the product cannot do without. With --production, weak keys fail
too; "stacyvm config lint --production" judges the whole configuration.`,
		Example: "  sudo stacyvm doctor\n  sudo stacyvm doctor --production",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			done := progress(a.stderr, "trying a sandbox")
			var checks []config.Check
			loaded, err := config.Load(a.configFile)
			if err != nil {
				checks = []config.Check{
					{Name: "config", Level: config.Fail, Message: err.Error(), Fix: "see docs/configuration.md"},
				}
			} else {
				checks = append(checks, loaded.Origin())
				checks = append(checks, loaded.Inert()...)
				checks = append(checks, doctor.Run(ctx, loaded.Config, production)...)
			}
			done()
			return a.printChecks("doctor", checks)
		},
	})
	cmd.Flags().BoolVar(&production, "production", false, "be as strict as production needs")
	return cmd
}
