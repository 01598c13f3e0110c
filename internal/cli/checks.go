package cli

import (
	"fmt"

	"github.com/stacyvm/stacyvm/internal/config"
)

// printChecks prints one line per check, with its fix below, and fails when a check did.
func (a *app) printChecks(command string, checks []config.Check) error {
	failing := 0
	for _, check := range checks {
		if check.Level == config.Fail {
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

func (a *app) printCheckLines(checks []config.Check) error {
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
