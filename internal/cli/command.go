package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/stacyvm/stacyvm/client"
)

// commandFlags are the flags of a command that runs in a sandbox: exec and run have them.
type commandFlags struct {
	env     []string
	workdir string
	user    string
	timeout time.Duration
	tty     bool
	shell   bool
}

func (f *commandFlags) add(flags *pflag.FlagSet) {
	flags.StringArrayVarP(&f.env, "env", "e", nil, "set `NAME=VALUE`; NAME alone takes the value from here (repeat)")
	flags.StringVarP(
		&f.workdir,
		"workdir",
		"w",
		"",
		"`directory` inside the sandbox (default: the image's, or /workspace)",
	)
	flags.StringVarP(
		&f.user,
		"user",
		"u",
		"",
		"`user` inside the sandbox: name or uid, alone or with :group (default: the image's, or root)",
	)
	flags.DurationVar(
		&f.timeout,
		"timeout",
		0,
		"end the command after a `duration` such as 90s (default: the server's)",
	)
	flags.BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal")
	flags.BoolVar(&f.shell, "shell", false, "run the words as one shell command")
}

// request builds the command. stdin says whether standard input is passed on.
func (f *commandFlags) request(cmd *cobra.Command, words []string, stdin bool) (client.ExecRequest, error) {
	request := client.ExecRequest{
		Command: words[0], Args: words[1:], Mode: client.ModeArgv,
		Workdir: f.workdir, User: f.user, Stdin: stdin,
	}
	if f.shell {
		request.Command, request.Args, request.Mode = strings.Join(words, " "), nil, client.ModeShell
	}
	if cmd.Flags().Changed("timeout") {
		if f.timeout <= 0 {
			return request, fmt.Errorf("--timeout: %s is not more than zero", f.timeout)
		}
		request.Timeout = f.timeout.String()
	}
	var err error
	request.Env, err = parseEnv(f.env)
	return request, err
}

// parseEnv reads NAME=VALUE words.
func parseEnv(words []string) (map[string]string, error) {
	if len(words) == 0 {
		return nil, nil
	}
	env := make(map[string]string, len(words))
	for _, word := range words {
		name, value, given := strings.Cut(word, "=")
		if name == "" {
			return nil, fmt.Errorf("--env: %q is not NAME=VALUE", word)
		}
		if !given {
			if value, given = os.LookupEnv(name); !given {
				continue
			}
		}
		env[name] = value
	}
	return env, nil
}

// terminal gives the size of the terminal that stdin and stdout are on; an error when they are not
// on one.
func (a *app) terminal() (*client.Terminal, error) {
	if !term.IsTerminal(int(a.stdin.Fd())) {
		return nil, errors.New("--tty: standard input is not a terminal")
	}
	cols, rows, err := term.GetSize(int(a.stdin.Fd()))
	if err != nil || cols <= 0 || rows <= 0 {
		cols, rows = 80, 24
	}
	return &client.Terminal{Rows: uint16(min(rows, 1<<16-1)), Cols: uint16(min(cols, 1<<16-1))}, nil
}

// splitCommand parses the flags that stand between the sandbox's name and the command, so that
// both `exec -i ID CMD` and `exec ID -i -- CMD` work and no flag of CMD is taken for ours.
func splitCommand(cmd *cobra.Command, args []string) (sandbox string, words []string, err error) {
	if len(args) == 0 {
		return "", nil, argumentError(cmd, "missing", 0)
	}
	if args[0] == "" {
		return "", nil, argumentError(cmd, "empty", 0)
	}
	sandbox, words = args[0], args[1:]
	if len(words) > 0 && strings.HasPrefix(words[0], "-") {
		if err := cmd.Flags().Parse(words); err != nil {
			return "", nil, flagError(cmd, err)
		}
		if help, err := cmd.Flags().GetBool("help"); help && err == nil {
			return "", nil, pflag.ErrHelp
		}
		words = cmd.Flags().Args()
	}
	if len(words) == 0 {
		return "", nil, argumentError(cmd, "missing", 1)
	}
	return sandbox, words, nil
}
