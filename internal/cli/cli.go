// Package cli is the command line: one file per command. Commands that act on sandboxes use the
// public client and nothing else; serve and run start a server through daemon; image and doctor
// look at this machine's own directories.
package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Version is the program's version; release builds set it with the linker.
var Version = "dev"

// app is one invocation: its standard streams, global flags and exit code.
type app struct {
	stdin          *os.File
	stdout, stderr *os.File
	server         string
	apiKey         string
	caFile         string
	configFile     string
	output         string // json or table, of commands that have a table
	exit           int
}

// exit codes of our own; a remote command's code is passed on as it is.
const (
	exitFailure     = 1
	exitInterrupted = 130
)

// errReported: the reason is on the screen already.
var errReported = errors.New("already reported")

// Main runs one command line and returns its exit code.
func Main(args []string) int {
	// A reader that went away is an error of the write, so that clean-up still happens; children
	// keep the default.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	a := &app{stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr}
	root := a.root()
	root.SetArgs(args)
	help := &printer{Writer: a.stdout}
	root.SetOut(help)
	err := root.ExecuteContext(context.Background())
	if err == nil {
		err = help.err
	}
	if err != nil {
		a.report(err)
	}
	return a.exit
}

// root builds the command tree.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "stacyvm",
		Short: "Disposable computers for programs",
		Long: `stacyvm gives programs, above all AI agents, disposable computers: create a sandbox, run commands in it,
move files, destroy it.`,
		Example: `  stacyvm run -- python3 -c 'print(6 * 7)'   one command in a fresh sandbox, without a server
  stacyvm serve                              a server; then spawn, exec, cp, kill`,
		Args:          onlySubcommands,
		RunE:          showHelp,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	flags := root.PersistentFlags()
	flags.StringVar(
		&a.server,
		"server",
		orDefault(os.Getenv("STACYVM_SERVER"), client.DefaultURL),
		"`address` of the server (STACYVM_SERVER)",
	)
	flags.StringVar(
		&a.apiKey,
		"api-key",
		"",
		"client `key`; better given as STACYVM_API_KEY, which other users of this machine cannot see",
	)
	flags.StringVar(
		&a.caFile,
		"ca-file",
		"",
		"`file` with the authorities of an https server, such as ca-bundle.pem (STACYVM_CA_FILE); else this machine's",
	)
	flags.StringVar(&a.configFile, "config", "", "configuration `file` (STACYVM_CONFIG)")
	root.SetFlagErrorFunc(flagError)
	help := helpCommand()
	root.SetHelpCommand(help)
	remote := []string{"server", "api-key", "ca-file"} // flags of commands that ask a server
	addGroup(root, "Sandboxes:", []string{"config"}, a.spawnCommand(), a.listCommand(), a.killCommand())
	addGroup(root, "Sandboxes:", []string{"config"}, a.eventsCommand())
	addGroup(
		root,
		"In a sandbox:",
		[]string{"config"},
		a.execCommand(),
		a.attachCommand(),
		a.psCommand(),
		a.logsCommand(),
		a.copyCommand(),
	)
	addGroup(
		root,
		"On this machine:",
		remote,
		a.runCommand(),
		a.serveCommand(),
		a.imageCommand(),
		a.configCommand(),
		a.doctorCommand(),
	)
	addGroup(root, "Upkeep:", remote, a.dbCommand(), a.upgradeCommand())
	addGroup(root, "Upkeep:", []string{"config"}, a.adminAuditCommand())
	addGroup(root, "Upkeep:", nil, a.statusCommand(), a.supportCommand())
	addGroup(root, "Cluster:", remote, a.workerCommand())
	addGroup(root, "Cluster:", append(remote, "config"), a.pkiCommand())
	addGroup(root, otherGroup, append(remote, "config"), a.versionCommand(), help, completionCommand(root))
	return root
}

// report prints an error in plain words, with what to do about it, and sets the exit code if
// nothing else did.
func (a *app) report(err error) {
	if a.exit == 0 {
		a.exit = exitFailure
		if errors.Is(err, context.Canceled) {
			a.exit = exitInterrupted
		}
	}
	if !errors.Is(err, errReported) {
		_, _ = fmt.Fprintln(a.stderr, "stacyvm: "+a.explain(err)) // nowhere else to complain
	}
}

// explain turns an error into words for people.
func (a *app) explain(err error) string {
	switch {
	case errors.Is(err, client.ErrNoServer):
		return fmt.Sprintf(
			"no server answers at %s: start one with `stacyvm serve`, or name another with --server",
			a.server,
		)
	case client.CodeOf(err) == client.CodeUnauthorized:
		return err.Error() + ": set STACYVM_API_KEY to the server's key"
	case errors.Is(err, context.Canceled):
		return "interrupted"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return err.Error() + ": name the file with the server's authorities with --ca-file"
	}
	if known, ok := errors.AsType[*stacyvm.Error](err); ok {
		return strings.TrimPrefix(err.Error(), string(known.Code)+": ") // the code is for programs
	}
	return err.Error()
}

// client connects to the server that the flags name.
func (a *app) client() (*client.Client, error) {
	trusted, err := a.trusted()
	if err != nil {
		return nil, err
	}
	c, err := client.New(a.server, client.Options{
		APIKey: orDefault(a.apiKey, os.Getenv("STACYVM_API_KEY")), UserID: os.Getenv("STACYVM_USER_ID"), TLS: trusted,
	})
	if err != nil {
		return nil, fmt.Errorf("--server: %w", err)
	}
	return c, nil
}

// trusted gives the TLS of a server that this machine's own authorities do not vouch for; nil:
// theirs do.
func (a *app) trusted() (*tls.Config, error) {
	path := orDefault(a.caFile, os.Getenv("STACYVM_CA_FILE"))
	if path == "" {
		return nil, nil
	}
	bundle, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("--ca-file: %w", err)
	}
	authorities := x509.NewCertPool()
	if !authorities.AppendCertsFromPEM(bundle) {
		return nil, fmt.Errorf("--ca-file: %s holds no certificate", path)
	}
	return &tls.Config{RootCAs: authorities, MinVersion: tls.VersionTLS12}, nil
}

// interruptible ends the context at the first Ctrl-C or SIGTERM; the second one ends the program.
func interruptible(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// passedOn catches the signals that a command in a sandbox gets; stop it. A hang-up that was
// ignored when this program started (nohup) stays ignored.
func passedOn(more ...os.Signal) (signals chan os.Signal, stop func()) {
	signals = make(chan os.Signal, 4)
	for _, s := range append(more, os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT) {
		if s != syscall.SIGHUP || !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
	return signals, func() { signal.Stop(signals) }
}

// version is Version, or what the Go tool stamped into a plain build.
func version() string {
	if Version != "dev" {
		return Version
	}
	if info, ok := debug.ReadBuildInfo(); ok && strings.HasPrefix(info.Main.Version, "v") {
		return info.Main.Version
	}
	return Version
}

func orDefault(value, fallback string) string {
	if value == "" {
		return fallback
	}
	return value
}
