package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon"
)

func (a *app) doctorCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{
		Use:   "doctor",
		Short: "Tell what works on this machine, what does not and what to do",
		Long: `Tell what works on this machine, what does not and what to do about it. A trial sandbox is started and
removed. The exit code is 1 when something fails that the product cannot do without.`,
		Example: "  sudo stacyvm doctor",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			done := progress(a.stderr, "trying a sandbox")
			var checks []daemon.Check
			loaded, err := config.Load(a.configFile)
			if err != nil {
				checks = []daemon.Check{{Name: "config", Level: daemon.Fail, Message: err.Error(), Fix: "see docs/configuration.md"}}
			} else {
				checks = append([]daemon.Check{configCheck(loaded)}, daemon.Doctor(ctx, loaded.Config)...)
			}
			done()
			return a.printChecks("doctor", checks)
		},
	})
}

func configCheck(loaded config.Loaded) daemon.Check {
	message := "no configuration file: defaults and the environment"
	if loaded.File != "" {
		message = "read " + loaded.File
	}
	return daemon.Check{Name: "config", Level: daemon.Pass, Message: message}
}

// printChecks prints one line per check, with its fix below, and fails when a check did.
func (a *app) printChecks(command string, checks []daemon.Check) error {
	failing := 0
	for _, check := range checks {
		if check.Level == daemon.Fail {
			failing++
		}
	}
	if a.output == "json" {
		if err := printJSONList(a, checks); err != nil {
			return err
		}
	} else if err := a.printCheckLines(checks); err != nil {
		return err
	}
	if failing > 0 {
		return fmt.Errorf("%s found %d failing check(s)", command, failing)
	}
	return nil
}

func (a *app) printCheckLines(checks []daemon.Check) error {
	for _, check := range checks {
		line := fmt.Sprintf("[%s] %s: %s\n", check.Level, check.Name, printable(check.Message))
		if check.Fix != "" {
			line += "      fix: " + printable(check.Fix) + "\n"
		}
		if _, err := fmt.Fprint(a.stdout, line); err != nil {
			return err
		}
	}
	return nil
}
