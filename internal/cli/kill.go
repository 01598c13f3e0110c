package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) killCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "kill SANDBOX...",
		Short: "Destroy sandboxes",
		Args:  arguments(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			server, err := a.client()
			if err != nil {
				return err
			}
			for _, id := range args {
				done := progress(a.stderr, "destroying "+id)
				err := server.Destroy(ctx, id)
				done()
				if err != nil {
					return fmt.Errorf("%s: %w", id, err)
				}
				if _, err := fmt.Fprintf(a.stdout, "Sandbox %s destroyed\n", id); err != nil {
					return err
				}
			}
			return nil
		},
	}
}
