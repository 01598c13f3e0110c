package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/client"
)

func (a *app) execCommand() *cobra.Command {
	var (
		flags       commandFlags
		interactive bool
		detach      bool
	)
	cmd := &cobra.Command{
		Use:   "exec [flags] SANDBOX -- COMMAND [ARG...]",
		Short: "Run a command in a sandbox",
		Long: `Run a command in a sandbox, print its output as it comes and exit with its exit code.

The command belongs to the sandbox: it goes on when this program or its connection dies, and
"stacyvm attach" finds it again. With --tty, Ctrl-P Ctrl-Q leaves without ending it.`,
		ValidArgsFunction: a.sandboxThen(false, nil),
		Example: `  stacyvm exec sb-0123456789abcdef01234567 -- python3 -c 'print(6 * 7)'
  stacyvm exec -it sb-0123456789abcdef01234567 -- bash
  stacyvm exec --detach sb-0123456789abcdef01234567 -- python3 server.py`,
	}
	cmd.Flags().SetInterspersed(false)
	flags.add(cmd.Flags())
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "pass standard input on")
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "print the process's id and leave it running")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		sandbox, words, err := splitCommand(cmd, args)
		if err != nil {
			return err
		}
		if detach && (interactive || flags.tty) {
			return errors.New("--detach cannot go together with --interactive or --tty")
		}
		request, err := flags.request(cmd, words, interactive)
		if err != nil {
			return err
		}
		server, err := a.client()
		if err != nil {
			return err
		}
		if detach {
			return a.execDetached(cmd.Context(), server, sandbox, request)
		}
		return a.execAttached(cmd.Context(), server, sandbox, request, flags.tty)
	}
	return cmd
}

func (a *app) execDetached(
	ctx context.Context,
	server *client.Client,
	sandbox string,
	request client.ExecRequest,
) error {
	process, err := server.Start(ctx, sandbox, request)
	if err != nil {
		return err
	}
	if !process.Running() && process.Error != "" {
		a.exit = process.ExitCode
		return fmt.Errorf("the command could not be started: %s", process.Error)
	}
	_, err = fmt.Fprintln(a.stdout, process.ID)
	return err
}

// execAttached starts the process and stays with it.
func (a *app) execAttached(
	ctx context.Context,
	server *client.Client,
	sandbox string,
	request client.ExecRequest,
	tty bool,
) error {
	request.Lossless = true // a slow reader here slows the command down, as in a local pipe
	if tty {
		size, err := a.terminal()
		if err != nil {
			return err
		}
		request.Terminal = size
	}
	signals, stop := passedOn()
	defer stop()
	process, err := server.Start(ctx, sandbox, request)
	if err != nil {
		return err
	}
	s := a.newSession(server, sandbox, process.ID)
	s.tty, s.owned = tty, true
	if request.Stdin {
		s.input = server.Input(sandbox, process.ID, 0)
	}
	return a.stay(ctx, s, signals)
}

// stay runs a session that passes signals on, and takes over the process's exit code.
func (a *app) stay(ctx context.Context, s *session, signals <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(ctx)
	forwarded := make(chan struct{})
	go func() {
		defer close(forwarded)
		s.forward(ctx, signals, cancel)
	}()
	code, err := s.run(ctx)
	cancel()
	<-forwarded
	switch {
	case errors.Is(err, errDetached):
		a.warn("left %s running: `stacyvm attach %s %s` comes back to it", s.process, s.sandbox, s.process)
		return nil
	case errors.Is(err, context.Canceled):
		a.exit = exitInterrupted
		return errReported
	case err != nil:
		return err
	}
	a.exit = code
	return nil
}
