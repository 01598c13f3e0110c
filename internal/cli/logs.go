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
		Args:  arguments(1, 1),
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
			return a.printJSON(text)
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
