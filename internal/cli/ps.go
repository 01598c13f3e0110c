package cli

import (
	"strconv"

	"github.com/spf13/cobra"
)

const commandWidth = 60

func (a *app) psCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{
		Use:               "ps SANDBOX",
		Short:             "List a sandbox's processes, ended ones too while they are kept",
		Example:           "  stacyvm ps sb-0123456789abcdef01234567",
		Args:              arguments(1, 1),
		ValidArgsFunction: a.sandboxThen(false, nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			server, err := a.client()
			if err != nil {
				return err
			}
			processes, err := server.Processes(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSONList(a, processes)
			}
			rows := make([][]string, 0, len(processes))
			for _, p := range processes {
				exit := "-"
				if !p.Running() {
					exit = strconv.Itoa(p.ExitCode)
				}
				rows = append(
					rows,
					[]string{
						p.ID,
						strconv.FormatInt(p.PID, 10),
						p.State,
						exit,
						stamp(p.StartedAt),
						shorten(p.Command, commandWidth),
					},
				)
			}
			return printTable(a.stdout, []string{"PROCESS", "PID", "STATE", "EXIT", "STARTED", "COMMAND"}, rows)
		},
	})
}
