package cli

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

const otherGroup = "Other:"

// addGroup adds commands under a title of the help. Global flags that mean nothing to them are
// left out of their help and refused: who gives one believes that it does something.
func addGroup(root *cobra.Command, title string, unused []string, commands ...*cobra.Command) {
	if !root.ContainsGroup(title) {
		root.AddGroup(&cobra.Group{ID: title, Title: title})
	}
	for _, command := range commands {
		command.GroupID = title
		explain := command.HelpFunc()
		command.SetHelpFunc(func(cmd *cobra.Command, args []string) {
			cmd.InheritedFlags().VisitAll(func(flag *pflag.Flag) { flag.Hidden = slices.Contains(unused, flag.Name) })
			explain(cmd, args)
		})
		command.PersistentPreRunE = func(cmd *cobra.Command, _ []string) error {
			for _, name := range unused {
				if cmd.InheritedFlags().Changed(name) { // a flag of the command's own may have the name
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
			about, rest, _ := cmd.Root().Find(args) // it has no other error than a rest
			if len(rest) > 0 {
				return onlySubcommands(about, rest)
			}
			return about.Help()
		},
	}
}

// completionCommand is cobra's, which takes an unknown shell for success.
func completionCommand(root *cobra.Command) *cobra.Command {
	root.InitDefaultCompletionCmd()
	command, _, err := root.Find([]string{"completion"})
	must(err)
	root.RemoveCommand(command)
	command.Short = "Print a script that lets a shell complete words"
	command.Example = "  source <(stacyvm completion bash)"
	command.Args, command.RunE = onlySubcommands, showHelp
	return command
}

// showHelp is what a command that only has others does by itself.
func showHelp(cmd *cobra.Command, _ []string) error { return cmd.Help() }

// destructive marks commands that end or delete what cannot be brought back.
const destructive = "destructive"

func destroys(cmd *cobra.Command) *cobra.Command {
	cmd.Annotations = map[string]string{destructive: "yes"}
	return cmd
}

// harmless leaves out names of destructive commands: who mistyped another one and takes a
// suggestion must lose nothing.
func harmless(parent *cobra.Command, names []string) []string {
	return slices.DeleteFunc(names, func(name string) bool {
		return slices.ContainsFunc(parent.Commands(), func(cmd *cobra.Command) bool {
			return cmd.Name() == name && cmd.Annotations[destructive] != ""
		})
	})
}

// onlySubcommands refuses what is none of a command's own.
func onlySubcommands(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	cmd.SuggestionsMinimumDistance = 2
	hint := "see `" + cmd.CommandPath() + " --help`"
	if near := harmless(cmd, cmd.SuggestionsFor(args[0])); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return fmt.Errorf("`%s` has no command %q: %s", cmd.CommandPath(), args[0], hint)
}

// flagError says what is wrong with a flag in words.
func flagError(cmd *cobra.Command, err error) error {
	if invalid, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		flag := invalid.GetFlag()
		kind := map[string]string{"int": "whole number", "duration": "duration such as 90s or 1h"}[flag.Value.Type()]
		err = fmt.Errorf("--%s: %q is not a %s", flag.Name, invalid.GetValue(), orDefault(kind, flag.Value.Type()))
	}
	return fmt.Errorf("%w\nSee `%s --help`", err, cmd.CommandPath())
}
