package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) listCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List sandboxes",
		Example: "  stacyvm list --output json | jq -r '.[].id'",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			server, err := a.client()
			if err != nil {
				return err
			}
			sandboxes, err := server.Sandboxes(cmd.Context())
			if err != nil {
				return err
			}
			if a.output == "json" {
				return printJSONList(a, sandboxes)
			}
			if len(sandboxes) == 0 {
				_, err := fmt.Fprintln(a.stdout, "No active sandboxes")
				return err
			}
			rows := make([][]string, 0, len(sandboxes))
			for _, s := range sandboxes {
				state := s.State
				if s.Reason != "" {
					state += " (" + s.Reason + ")"
				}
				if s.Recovered {
					state += " (recovered)"
				}
				rows = append(rows, []string{s.ID, state, shownProvider(s), s.Image, stamp(s.CreatedAt), stamp(s.ExpiresAt)})
			}
			return printTable(a.stdout, []string{"ID", "STATE", "PROVIDER", "IMAGE", "CREATED", "EXPIRES"}, rows)
		},
	})
}
