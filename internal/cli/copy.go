package cli

import (
	"context"
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/client"
)

func (a *app) copyCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cp SOURCE TARGET",
		Short: "Copy files and directories between here and a sandbox",
		Long: `Copy a file or a whole directory into a sandbox or out of it. One side is SANDBOX:PATH; a relative
PATH starts at /workspace. A target that is a directory, or ends with a slash, receives the source under
its own name; a file that is there is replaced. Permission bits are kept (here within the umask).
Symbolic links and special files inside a directory are left out and reported.`,
		Example: `  stacyvm cp report.csv sb-0123456789abcdef01234567:data/
  stacyvm cp sb-0123456789abcdef01234567:/workspace/out ./out`,
		Args: arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			source, target := parsePlace(args[0]), parsePlace(args[1])
			if (source.sandbox == "") == (target.sandbox == "") {
				return errors.New("SOURCE and TARGET: exactly one must be in a sandbox, written SANDBOX:PATH")
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			server, err := a.client()
			if err != nil {
				return err
			}
			c := &copier{app: a, server: server, sandbox: source.sandbox + target.sandbox}
			done := progress(a.stderr, "copying")
			defer done()
			if target.sandbox != "" {
				err = c.upload(ctx, source.path, target.path)
			} else {
				err = c.download(ctx, source.path, target.path)
			}
			done()
			for _, name := range c.left {
				a.warn("left out: %s", printable(name))
			}
			return err
		},
	}
}

// place is one side of a copy; an empty sandbox is this machine.
type place struct{ sandbox, path string }

var remotePlace = regexp.MustCompile(`^(sb-[0-9a-zA-Z_-]+):(.*)$`)

func parsePlace(word string) place {
	if match := remotePlace.FindStringSubmatch(word); match != nil {
		return place{match[1], orDefault(match[2], ".")}
	}
	return place{"", word}
}

// copier copies between here and one sandbox.
type copier struct {
	app     *app
	server  *client.Client
	sandbox string
	left    []string // what was left out, and why
}

// about names the file of an error, unless it is the server's, which does so itself.
func about(name string, err error) error {
	if err == nil || client.CodeOf(err) != "" {
		return err
	}
	return fmt.Errorf("%s: %w", printable(name), err)
}

func (c *copier) leaveOut(name, why string) { c.left = append(c.left, name+" ("+why+")") }

// maxLinks bounds a chain of symbolic links: the sandbox decides how long it is.
const maxLinks = 40

// follow describes what a path that the user named stands for in the sandbox, at the end of its symbolic links.
func (c *copier) follow(ctx context.Context, name string) (client.FileInfo, error) {
	for range maxLinks {
		info, err := c.server.Stat(ctx, c.sandbox, name)
		if err != nil || info.LinkTarget == "" {
			return info, err
		}
		if name = info.LinkTarget; !path.IsAbs(name) {
			name = path.Join(path.Dir(info.Path), name)
		}
	}
	return client.FileInfo{}, errors.New("too many symbolic links")
}

// remoteTarget decides the name that an upload of a source called base gets.
func (c *copier) remoteTarget(ctx context.Context, target, base string) (string, error) {
	if strings.HasSuffix(target, "/") {
		return path.Join(target, base), nil
	}
	info, err := c.follow(ctx, target)
	if err == nil && info.IsDir {
		return path.Join(target, base), nil
	}
	if err != nil && client.CodeOf(err) != client.CodeNotFound {
		return "", about(target, err)
	}
	// Not there, which may also mean that the sandbox is not: the first write says so.
	return target, nil
}
