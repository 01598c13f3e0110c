package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// arguments checks their number and says what is missing in the words of the usage line. None may
// be empty.
func arguments(least, most int) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch empty := slices.Index(args, ""); {
		case len(args) < least:
			return argumentError(cmd, "missing", len(args))
		case most >= 0 && len(args) > most:
			return fmt.Errorf("unexpected argument %q\nUsage: %s", args[most], cmd.UseLine())
		case empty >= 0 && (most >= 0 || empty < least):
			return argumentError(cmd, "empty", empty)
		}
		return nil
	}
}

// checkAll gives the arguments without doubles, when check refuses none of them.
func checkAll(args []string, check func(string) error) (once []string, err error) {
	var failures []error
	for _, arg := range args {
		if !slices.Contains(once, arg) {
			once = append(once, arg)
			failures = append(failures, check(arg))
		}
	}
	return once, errors.Join(failures...)
}

// argumentError names the argument at position i as the usage line does.
func argumentError(cmd *cobra.Command, problem string, i int) error {
	names := slices.DeleteFunc(
		strings.Fields(cmd.Use)[1:],
		func(word string) bool { return word == "[flags]" || word == "--" },
	)
	return fmt.Errorf("%s argument %s\nUsage: %s", problem, strings.TrimSuffix(names[i], "..."), cmd.UseLine())
}
