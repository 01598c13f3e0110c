package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/client"
)

func (a *app) killCommand() *cobra.Command {
	return &cobra.Command{
		Use:               "kill SANDBOX...",
		Short:             "Destroy sandboxes",
		Long:              "Destroy sandboxes with everything in them: processes, files, memory.",
		Example:           "  stacyvm kill sb-0123456789abcdef01234567",
		Args:              arguments(1, -1),
		ValidArgsFunction: a.sandboxThen(true, nil),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			server, err := a.client()
			if err != nil {
				return err
			}
			var failures []error
			for _, id := range args {
				done := progress(a.stderr, "destroying "+printable(id))
				err := server.Destroy(ctx, id)
				done()
				if err == nil {
					_, err = fmt.Fprintf(a.stdout, "Sandbox %s destroyed\n", id)
				} else {
					err = about(id, err)
				}
				if failures = append(failures, err); ctx.Err() != nil || errors.Is(err, client.ErrNoServer) {
					break
				}
			}
			return errors.Join(failures...)
		},
	}
}
