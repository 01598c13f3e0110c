package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/client"
)

func (a *app) attachCommand() *cobra.Command {
	var (
		interactive bool
		noFollow    bool
		newOnly     bool
	)
	cmd := &cobra.Command{
		Use:   "attach SANDBOX PROCESS",
		Short: "Read a process's output, from its beginning",
		Long: `Read the output of a process in a sandbox from the beginning, as far as it is kept, until the
process ends, and exit with its exit code. The process may have ended long ago.

Ctrl-C goes to the process. With --interactive on a process that has a terminal, Ctrl-P Ctrl-Q leaves.`,
		Example: `  stacyvm attach sb-0123456789abcdef01234567 PROCESS      everything that it printed, and on
  stacyvm attach -i sb-0123456789abcdef01234567 PROCESS   back to a terminal that was left
  stacyvm ps sb-0123456789abcdef01234567                  which processes there are`,
		Args:              arguments(2, 2),
		ValidArgsFunction: a.sandboxThen(false, processWords),
	}
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "pass standard input on")
	cmd.Flags().BoolVar(&noFollow, "no-follow", false, "print what is there now and leave")
	cmd.Flags().BoolVar(&newOnly, "new", false, "leave out what was printed before now")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if interactive && noFollow {
			return errors.New("--interactive cannot go together with --no-follow")
		}
		server, err := a.client()
		if err != nil {
			return err
		}
		process, err := server.Process(cmd.Context(), args[0], args[1])
		if err != nil {
			return err
		}
		s := a.newSession(server, args[0], process.ID)
		if s.tty = interactive && process.Terminal; interactive && process.StdinOpen {
			if s.input, err = server.ResumeInput(cmd.Context(), args[0], process.ID); err != nil {
				return err
			}
		}
		s.from = client.OutputRequest{
			StdoutOffset: process.StdoutFirst,
			StderrOffset: process.StderrFirst,
			NoFollow:     noFollow,
		}
		if newOnly {
			s.from.StdoutOffset, s.from.StderrOffset = process.StdoutBytes, process.StderrBytes
		}
		if s.tty {
			if _, err := a.terminal(); err != nil {
				return err
			}
		}
		signals, stop := passedOn()
		defer stop()
		return a.stay(cmd.Context(), s, signals)
	}
	return cmd
}
