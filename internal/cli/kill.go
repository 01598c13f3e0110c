package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

func (a *app) killCommand() *cobra.Command {
	return destroys(&cobra.Command{
		Use:   "kill SANDBOX...",
		Short: "Destroy sandboxes",
		Long: `Destroy sandboxes with everything in them: processes, files, memory. When one of them does not exist, none is
destroyed. One process of a sandbox is ended by ` + "`" + `stacyvm exec SANDBOX -- kill PID` + "`" + `; ` + "`" + `stacyvm ps SANDBOX` + "`" + ` lists them.`,
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
			ids, err := checkAll(args, func(id string) error { return checkSandbox(ctx, server, id) })
			if err != nil {
				return fmt.Errorf("%w\nNothing was destroyed", err)
			}
			var failures []error
			for _, id := range ids {
				done := progress(a.stderr, "destroying "+printable(id))
				err := server.Destroy(ctx, id)
				done()
				if err == nil {
					_, err = fmt.Fprintf(a.stdout, "Sandbox %s destroyed\n", id)
				} else {
					err = about(id, err)
				}
				if failures = append(
					failures,
					err,
				); ctx.Err() != nil || errors.Is(err, client.ErrNoServer) ||
					errors.Is(err, client.ErrSilent) {
					break
				}
			}
			return errors.Join(failures...)
		},
	})
}

// checkSandbox refuses what is no sandbox.
func checkSandbox(ctx context.Context, server *client.Client, id string) error {
	if !stacyvm.SandboxID(id).Valid() {
		return fmt.Errorf("%q is no sandbox's id, such as sb-0123456789abcdef01234567; "+
			"one process is ended by `stacyvm exec SANDBOX -- kill PID` (see `stacyvm ps SANDBOX`)", id)
	}
	_, err := server.Sandbox(ctx, id)
	return about(id, err)
}
