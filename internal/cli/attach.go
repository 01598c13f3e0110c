package cli

import (
	"errors"
	"os"
	"os/signal"
	"syscall"

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
		Args: arguments(2, 2),
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
		s.input, s.tty = interactive && process.StdinOpen, interactive && process.Terminal
		s.from = client.OutputRequest{StdoutOffset: process.StdoutFirst, StderrOffset: process.StderrFirst, NoFollow: noFollow}
		if newOnly {
			s.from.StdoutOffset, s.from.StderrOffset = process.StdoutBytes, process.StderrBytes
		}
		if s.tty {
			if _, err := a.terminal(); err != nil {
				return err
			}
		}
		signals := make(chan os.Signal, 4)
		signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
		defer signal.Stop(signals)
		return a.stay(cmd.Context(), s, signals)
	}
	return cmd
}
