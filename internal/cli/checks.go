package cli

import (
	"fmt"

	"github.com/stacyvm/stacyvm/internal/config"
)

// printChecks prints one line per check, with its fix below, and fails when a check did.
func (a *app) printChecks(command string, checks []config.Check) error {
	if a.output == "json" {
		if err := printJSONList(a, checks); err != nil {
			return err
		}
	} else if err := a.printCheckLines(checks); err != nil {
		return err
	}
	return failing(command, checks)
}

// failing is the error of a command whose checks did not all pass.
func failing(command string, checks []config.Check) error {
	n := 0
	for _, check := range checks {
		if check.Level == config.Fail {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%s found %d failing check(s)", command, n)
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
