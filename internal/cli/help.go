package cli

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const otherGroup = "Other:"

// addGroup adds commands under a title of the help. Global flags that mean nothing to them are left out of their help and
// refused: who gives one believes that it does something.
func addGroup(root *cobra.Command, title string, unused []string, commands ...*cobra.Command) {
	root.AddGroup(&cobra.Group{ID: title, Title: title})
	for _, command := range commands {
		command.GroupID = title
		explain := command.HelpFunc()
		command.SetHelpFunc(func(cmd *cobra.Command, args []string) {
			cmd.InheritedFlags().VisitAll(func(flag *pflag.Flag) { flag.Hidden = slices.Contains(unused, flag.Name) })
			explain(cmd, args)
		})
		command.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
			for _, name := range unused {
				if cmd.Flags().Changed(name) {
					return fmt.Errorf("--%s: `%s` does not use it", name, cmd.CommandPath())
				}
			}
			return nil
		}
		root.AddCommand(command)
	}
}

// helpCommand replaces cobra's, which takes an unknown command for success.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "help [COMMAND]",
		Short:   "Explain a command",
		Example: "  stacyvm help exec",
		RunE: func(cmd *cobra.Command, args []string) error {
			about, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return fmt.Errorf("there is no command %q\nSee `stacyvm help`", strings.Join(args, " "))
			}
			return about.Help()
		},
	}
}
