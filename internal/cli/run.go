package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon"
)

// runTTL is longer than any command: a private server ends its sandbox itself.
const runTTL = "87600h"

func (a *app) runCommand() *cobra.Command {
	var (
		spawn       spawnFlags
		flags       commandFlags
		interactive bool
	)
	cmd := &cobra.Command{
		Use:   "run [flags] -- COMMAND [ARG...]",
		Short: "Run one command in a fresh sandbox; nothing is left afterwards",
		Long: `Run one command in a fresh sandbox on a private server: no other server is needed. Output is streamed and the
command's exit code passed on; then the sandbox is destroyed. Ctrl-C goes to the command; a second one ends it at once.`,
		Example: `  stacyvm run -- python3 -c 'print(6 * 7)'
  stacyvm run -it -- bash
  stacyvm run --image alpine --memory 256 -- /bin/uname -a`,
		Args: arguments(1, -1),
	}
	cmd.Flags().SetInterspersed(false)
	spawn.add(cmd.Flags())
	flags.add(cmd.Flags())
	cmd.Flags().BoolVarP(&interactive, "interactive", "i", false, "pass standard input on")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		exec, err := flags.request(cmd, args, interactive)
		if err != nil {
			return err
		}
		exec.Lossless = true
		if flags.tty {
			if exec.Terminal, err = a.terminal(); err != nil {
				return err
			}
		}
		request, err := spawn.request(cmd.Flags())
		if err != nil {
			return err
		}
		request.TTL = runTTL
		return a.runPrivate(cmd.Context(), request, exec)
	}
	return cmd
}

// runPrivate starts the server, runs the command and removes everything. Signals before the
// command runs end it all.
func (a *app) runPrivate(ctx context.Context, spawn client.SpawnRequest, exec client.ExecRequest) (err error) {
	signals, stop := passedOn(syscall.SIGHUP)
	defer stop()
	starting, cancel := context.WithCancel(ctx)
	defer cancel()
	process, server, err := a.startPrivate(starting, cancel, signals, spawn, exec)
	if server != nil {
		defer func() {
			err = a.closePrivate(server, err)
		}()
	}
	if starting.Err() != nil {
		a.exit = exitInterrupted
		return errReported
	}
	if err != nil {
		return err
	}
	s := a.newSession(server.Client, process.sandbox, process.id)
	s.tty, s.owned = exec.Terminal != nil, true
	if exec.Stdin {
		s.input = server.Client.Input(process.sandbox, process.id, 0)
	}
	s.patience, s.farewell = 1, "ending the command"
	return a.stay(ctx, s, signals)
}

// closePrivate removes everything; what could not be removed is told beside any earlier error.
func (a *app) closePrivate(server *daemon.Private, earlier error) error {
	done := progress(a.stderr, "removing the sandbox")
	err := server.Close()
	done()
	switch {
	case err == nil:
		return earlier
	case earlier == nil || errors.Is(earlier, errReported):
		return err
	}
	return errors.Join(earlier, err)
}

// privateProcess names a process and its sandbox.
type privateProcess struct{ sandbox, id string }

// startPrivate gives the server also beside an error, to be closed. A signal cancels.
func (a *app) startPrivate(ctx context.Context, cancel context.CancelFunc, signals <-chan os.Signal,
	spawn client.SpawnRequest, exec client.ExecRequest) (process privateProcess, server *daemon.Private, err error) {
	started := make(chan struct{})
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		select {
		case <-signals:
			cancel()
		case <-started:
		}
	}()
	defer func() { close(started); <-watching }()
	done := progress(a.stderr, "starting a sandbox")
	defer done()
	options, err := a.privateOptions()
	if err != nil {
		return process, nil, err
	}
	if server, err = daemon.StartPrivate(ctx, options); err != nil {
		return process, nil, err
	}
	sandbox, err := server.Client.Spawn(ctx, spawn)
	if err != nil {
		return process, server, err
	}
	a.warnUnenforced(sandbox)
	p, err := server.Client.Start(ctx, sandbox.ID, exec)
	return privateProcess{sandbox.ID, p.ID}, server, err
}

// privateOptions are the machine's configuration without what is about other callers.
func (a *app) privateOptions() (daemon.Options, error) {
	c, err := a.loadConfig()
	if err != nil {
		return daemon.Options{}, err
	}
	c.Auth, c.RateLimit, c.Audit = config.Auth{}, config.RateLimit{}, config.Audit{}
	c.Database = config.Database{Driver: "sqlite"}
	c.Defaults.MaxTTL, c.Defaults.MaxExecTimeout = 0, 0
	c.Defaults.MaxSandboxes, c.Defaults.MaxSandboxesPerOwner = 0, 0
	c.Server.ShutdownTimeout = time.Second // the only client is this program
	log, err := a.quietLogger()
	if err != nil {
		return daemon.Options{}, fmt.Errorf("log: %w", err)
	}
	return daemon.Options{Config: c, Version: version(), Logger: log}, nil
}
