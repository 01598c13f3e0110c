package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/client"
)

func (a *app) copyCommand() *cobra.Command {
	var user string
	cmd := &cobra.Command{
		Use:   "cp SOURCE... TARGET",
		Short: "Copy files and directories between here and a sandbox",
		Long: `Copy files and whole directories into a sandbox or out of it. One side is SANDBOX:PATH; a relative PATH
starts at /workspace. A target that is a directory, or ends with a slash, receives the source under its own
name, and several sources need such a target; a file that is there is replaced. "-" is standard input or
output; of a directory a tar archive is written there. A file called "-" here is "./-".

Permission bits are kept (here within the umask), and so are the symbolic links in a directory; one that is
named as the source stands for what it points to. Special files are left out and reported. What goes wrong
with one file does not stop the others; the exit code is 1 then.`,
		Example: `  stacyvm cp report.csv notes.md sb-0123456789abcdef01234567:data/
  stacyvm cp sb-0123456789abcdef01234567:/workspace/out ./out
  stacyvm cp --user www-data site sb-0123456789abcdef01234567:/srv/
  pg_dump shop | stacyvm cp - sb-0123456789abcdef01234567:shop.sql`,
		Args: arguments(2, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			sources, target, err := parsePlaces(args)
			if err != nil {
				return err
			}
			if user != "" && target.sandbox == "" {
				return errors.New("--user goes with a copy into a sandbox")
			}
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			server, err := a.client()
			if err != nil {
				return err
			}
			return a.copyAll(ctx, &copier{app: a, server: server, user: user}, sources, target)
		},
	}
	cmd.Flags().
		StringVarP(&user, "user", "u", "", "`user` in the sandbox who owns what is new (default: the image's, or root)")
	return cmd
}

// copyAll copies one source after the other. What goes wrong with one does not stop the next.
func (a *app) copyAll(ctx context.Context, c *copier, sources []place, target place) error {
	done := progressOf(a.stderr, func() string { return "copying, " + byteSize(c.moved.Load()) })
	defer done()
	err := c.checkTarget(ctx, sources, target)
	var failures []error
	for _, source := range sources {
		if err != nil || ctx.Err() != nil {
			break
		}
		c.sandbox = source.sandbox + target.sandbox
		if target.sandbox != "" {
			failures = append(failures, c.upload(ctx, source.path, target.path))
		} else {
			failures = append(failures, c.download(ctx, source.path, target.path))
		}
	}
	done()
	for _, note := range c.notes {
		a.warn("%s", note)
	}
	return errors.Join(append(failures, err)...)
}

// place is one side of a copy; an empty sandbox is this machine.
type place struct{ sandbox, path string }

// standard is the path of standard input or output.
const standard = "-"

var remotePlace = regexp.MustCompile(`^(sb-[0-9a-zA-Z_-]+):((?s:.*))$`)

func parsePlace(word string) place {
	if match := remotePlace.FindStringSubmatch(word); match != nil {
		return place{match[1], orDefault(match[2], ".")}
	}
	return place{"", word}
}

// parsePlaces checks what can be checked without a server.
func parsePlaces(args []string) (sources []place, target place, err error) {
	target = parsePlace(args[len(args)-1])
	names := map[string]bool{}
	for _, word := range args[:len(args)-1] {
		source := parsePlace(word)
		sources = append(sources, source)
		base := path.Base(filepath.ToSlash(source.path))
		switch {
		case (source.sandbox == "") == (target.sandbox == ""):
			return nil, target, errors.New("SOURCE and TARGET: exactly one must be in a sandbox, written SANDBOX:PATH")
		case len(args) == 2:
			continue
		case source.sandbox == "" && source.path == standard || target.sandbox == "" && target.path == standard:
			return nil, target, errors.New(`"-" goes with one source and one target`)
		case names[base]:
			return nil, target, fmt.Errorf("two sources are called %s: one would replace the other", printable(base))
		}
		names[base] = true
	}
	return sources, target, nil
}

// checkTarget refuses several sources for a target that is no directory.
func (c *copier) checkTarget(ctx context.Context, sources []place, target place) error {
	if len(sources) == 1 || strings.HasSuffix(target.path, "/") {
		return nil
	}
	isDir := isLocalDir(target.path)
	if target.sandbox != "" {
		c.sandbox = target.sandbox
		info, err := c.follow(ctx, target.path)
		if err != nil && client.CodeOf(err) != client.CodeNotFound {
			return about(target.path, err)
		}
		isDir = err == nil && info.IsDir
	}
	if !isDir {
		return fmt.Errorf(
			"%s: several sources need a directory that is there, or a name that ends in a slash",
			printable(target.path),
		)
	}
	return nil
}

// copier copies between here and one sandbox.
type copier struct {
	app     *app
	server  *client.Client
	sandbox string
	user    string
	moved   atomic.Int64 // bytes of content so far
	notes   []string     // what the user is told in the end
}

// meter counts what is read from r.
func (c *copier) meter(r io.Reader) io.Reader { return &meteredReader{r, &c.moved} }

type meteredReader struct {
	io.Reader
	moved *atomic.Int64
}

func (r *meteredReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.moved.Add(int64(n))
	return n, err
}

// about names the file of an error, unless it is the server's, which does so itself.
func about(name string, err error) error {
	if err == nil || client.CodeOf(err) != "" {
		return err
	}
	return fmt.Errorf("%s: %w", visible(name), err)
}

// visible makes a file's name fit for a message. One that is no text is shown as its bytes.
func visible(name string) string {
	if !utf8.ValidString(name) {
		return strconv.Quote(name)
	}
	return printable(name)
}

func (c *copier) leaveOut(name, why string) {
	c.note("left out: " + visible(name) + " (" + why + ")")
}

// noteOddName tells of a name that no other call of the API can say.
func (c *copier) noteOddName(name string) {
	if !utf8.ValidString(name) {
		c.note("copied under a name that is no UTF-8 text: " + visible(name))
	}
}

// mostNotes bounds what is told of one copy: the sandbox decides how much there is to tell.
const mostNotes = 100

func (c *copier) note(text string) {
	switch {
	case len(c.notes) < mostNotes:
		c.notes = append(c.notes, text)
	case len(c.notes) == mostNotes:
		c.notes = append(c.notes, "there is more of this kind")
	}
}

// problems collects what went wrong with single files, as much of it as anybody reads.
type problems struct {
	errs []error
	more int
}

func (p *problems) add(err error) {
	switch {
	case err == nil:
	case len(p.errs) < mostNotes:
		p.errs = append(p.errs, err)
	default:
		p.more++
	}
}

func (p *problems) join() error {
	if p.more > 0 {
		return errors.Join(append(p.errs, fmt.Errorf("%d more files could not be copied", p.more))...)
	}
	return errors.Join(p.errs...)
}

// maxLinks bounds a chain of symbolic links: the sandbox decides how long it is.
const maxLinks = 40

// follow describes what a path that the user named stands for in the sandbox, at the end of its
// symbolic links.
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

// remoteTarget decides the name that an upload of a source called base gets; an empty base is a
// source without a name.
func (c *copier) remoteTarget(ctx context.Context, target, base string) (string, error) {
	into := strings.HasSuffix(target, "/")
	if !into {
		info, err := c.follow(ctx, target)
		if err != nil && client.CodeOf(err) != client.CodeNotFound {
			return "", about(target, err)
		}
		// Not there, which may also mean that the sandbox is not: the first write says so.
		into = err == nil && info.IsDir
	}
	switch {
	case !into:
		return target, nil
	case base == "":
		return "", fmt.Errorf("%s is a directory: give the file that standard input becomes a name", printable(target))
	}
	return path.Join(target, base), nil
}
