package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) logsCommand() *cobra.Command {
	var lines int
	cmd := &cobra.Command{
		Use:   "logs SANDBOX",
		Short: "Print the last lines that a sandbox's processes printed",
		Long: `Print the last lines that the processes of a sandbox printed, all together. "stacyvm attach" gives the
whole output of one.`,
		Example:           "  stacyvm logs -n 20 sb-0123456789abcdef01234567",
		Args:              arguments(1, 1),
		ValidArgsFunction: a.sandboxThen(false, nil),
	}
	cmd.Flags().IntVarP(&lines, "lines", "n", 100, "number of lines")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if lines <= 0 {
			return fmt.Errorf("--lines: %d is not more than zero", lines)
		}
		server, err := a.client()
		if err != nil {
			return err
		}
		text, err := server.Logs(cmd.Context(), args[0], lines)
		if err != nil {
			return err
		}
		if a.output == "json" {
			return printJSONList(a, text)
		}
		for _, line := range text {
			if _, err := fmt.Fprintln(a.stdout, line); err != nil {
				return err
			}
		}
		return nil
	}
	return a.withOutput(cmd)
}
