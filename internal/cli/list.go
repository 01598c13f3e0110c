package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/client"
)

// listPage is how many sandboxes the list is fetched by: what the server gives at most.
const listPage = 1000

func (a *app) listCommand() *cobra.Command {
	limit := 0
	cmd := a.withOutput(&cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List sandboxes",
		Example: "  stacyvm list --output json | jq -r '.[].id'",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if limit < 0 {
				return fmt.Errorf("--limit: %d is negative", limit)
			}
			server, err := a.client()
			if err != nil {
				return err
			}
			sandboxes, err := newest(cmd.Context(), server, limit)
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
				rows = append(
					rows,
					[]string{s.ID, state, shownProvider(s), s.Image, stamp(s.CreatedAt), stamp(s.ExpiresAt)},
				)
			}
			return printTable(a.stdout, []string{"ID", "STATE", "PROVIDER", "IMAGE", "CREATED", "EXPIRES"}, rows)
		},
	})
	cmd.Flags().IntVar(&limit, "limit", 0, "the newest `N` alone; 0 is all")
	return cmd
}

// newest lists the newest sandboxes, all with a limit of 0.
func newest(ctx context.Context, server *client.Client, limit int) (sandboxes []client.Sandbox, err error) {
	if limit == 0 {
		return server.Sandboxes(ctx)
	}
	for cursor, more := "", true; more && len(sandboxes) < limit; more = cursor != "" {
		var page []client.Sandbox
		if page, cursor, err = server.SandboxPage(ctx, cursor, min(limit-len(sandboxes), listPage)); err != nil {
			return nil, err
		}
		sandboxes = append(sandboxes, page...)
	}
	return sandboxes, nil
}
