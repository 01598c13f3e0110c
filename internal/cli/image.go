package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/stacyvm/stacyvm/internal/image"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

func (a *app) imageCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "image",
		Short: "Keep the images that sandboxes start from",
		Long: `Keep the images that sandboxes on this machine start from. They lie in the data directory; a server
that uses the same one needs no restart.

The image "host" is built in: a read-only view of this machine's own programs and libraries (/usr without
/usr/local), with an empty home and a made-up /etc. Nothing else of this machine is in it.`,
		Example: `  stacyvm image import tools ./rootfs.tar.gz
  stacyvm spawn --image tools`,
		Args: onlySubcommands,
		RunE: showHelp,
	}
	cmd.AddCommand(a.imageImportCommand(), a.imageListCommand(), a.imageRemoveCommand())
	return cmd
}

// images opens this machine's images.
func (a *app) images() (*image.Store, error) {
	dir, err := a.dataDir()
	if err != nil {
		return nil, err
	}
	store, err := image.Open(filepath.Join(dir, "images"))
	return store, plainError(err)
}

func (a *app) imageImportCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "import NAME SOURCE",
		Short: "Make an image from a directory, a tar archive or an OCI layout",
		Long: `Make an image from a directory, a tar archive of a root file system (plain, gzip, zstd or bzip2), an OCI
layout (a directory or an archive of it), or the output of "docker save". SOURCE "-" is an archive on
standard input. Everything is copied: the source is not needed afterwards.

Device nodes, pipes, sockets, hard links to them and volume labels are left out; how many, and the first
of them, is printed. So are extended attributes and set-user-id bits. An image needs no shell; without one,
run its programs directly.`,
		Example: `  docker export $(docker create python:3.13-slim) | stacyvm image import python -
  stacyvm image import tools ./rootfs.tar.gz`,
		Args: arguments(2, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, stop := interruptible(cmd.Context())
			defer stop()
			store, err := a.images()
			if err != nil {
				return err
			}
			done := progress(a.stderr, "importing "+printable(args[1]))
			made, err := a.importImage(ctx, store, args[0], args[1])
			done()
			if err != nil {
				return importError(args[1], err)
			}
			_, err = fmt.Fprintf(
				a.stdout,
				"Image %s imported (%s)%s\n",
				made.Name,
				byteSize(made.Bytes),
				leftOut(made.LeftOut),
			)
			return err
		},
	}
}

// leftOut tells of what an import did not bring; empty when that is nothing.
func leftOut(left image.LeftOut) string {
	if left.Count == 0 {
		return ""
	}
	text := fmt.Sprintf("; left out %d: %s", left.Count, printable(strings.Join(left.Names, ", ")))
	if left.Count > len(left.Names) {
		text += ", …"
	}
	return text
}

func (a *app) importImage(ctx context.Context, store *image.Store, name, source string) (image.Image, error) {
	if source != "-" {
		return store.Import(ctx, name, source, nil)
	}
	if onTerminal(a.stdin) {
		return image.Image{}, errors.New("standard input is a terminal: send an archive to it, or name a file")
	}
	input, err := newInputReader(a.stdin)
	if err != nil {
		return image.Image{}, err
	}
	defer input.close()
	unhook := context.AfterFunc(ctx, input.stop)
	made, err := store.ImportArchive(ctx, name, input, nil)
	if unhook() {
		input.stop()
	}
	if ctx.Err() != nil && err != nil {
		err = ctx.Err()
	}
	return made, err
}

func (a *app) imageListCommand() *cobra.Command {
	return a.withOutput(&cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the images of this machine",
		Example: "  stacyvm image list",
		Args:    arguments(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := a.images()
			if err != nil {
				return err
			}
			images, err := store.List(cmd.Context())
			if err != nil {
				return plainError(err)
			}
			return a.printImages(images)
		},
	})
}

// imageLine is an image as JSON.
type imageLine struct {
	Name      string     `json:"name"`
	Digest    string     `json:"digest,omitempty"`
	Bytes     int64      `json:"bytes"`
	CreatedAt *time.Time `json:"created_at,omitempty"`
	BuiltIn   bool       `json:"built_in"`
	InUse     int        `json:"in_use"`
}

func (a *app) printImages(images []image.Image) error {
	lines, rows := make([]imageLine, 0, len(images)), make([][]string, 0, len(images))
	for _, i := range images {
		line := imageLine{i.Name, i.Digest, i.Bytes, &i.CreatedAt, i.BuiltIn, i.InUse}
		if i.CreatedAt.IsZero() {
			line.CreatedAt = nil
		}
		lines = append(lines, line)
		size := byteSize(i.Bytes)
		if i.BuiltIn {
			size = "built in"
		}
		rows = append(
			rows,
			[]string{i.Name, size, stamp(i.CreatedAt), fmt.Sprint(i.InUse), orDefault(shorten(i.Digest, 20), "-")},
		)
	}
	if a.output == "json" {
		return printJSONList(a, lines)
	}
	return printTable(a.stdout, []string{"NAME", "SIZE", "CREATED", "IN USE", "DIGEST"}, rows)
}

func (a *app) imageRemoveCommand() *cobra.Command {
	return destroys(&cobra.Command{
		Use:     "rm NAME...",
		Aliases: []string{"remove"},
		Short:   "Delete images that no sandbox uses",
		Example: "  stacyvm image rm tools",
		Args:    arguments(1, -1),
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := a.images()
			if err != nil {
				return err
			}
			names, err := checkAll(args, func(name string) error { return plainError(store.CheckRemove(name)) })
			if err != nil {
				return fmt.Errorf("%w\nNothing was removed", err)
			}
			var failures []error
			for _, name := range names {
				done := progress(a.stderr, "removing "+printable(name))
				err := plainError(store.Remove(cmd.Context(), name))
				done()
				if err == nil {
					_, err = fmt.Fprintf(a.stdout, "Image %s removed\n", name)
				}
				failures = append(failures, err)
			}
			return errors.Join(failures...)
		},
	})
}

// plainError leaves out the code, and the cause where the message is enough: this is the user's
// own machine.
func plainError(err error) error {
	var known *stacyvm.Error
	switch {
	case !errors.As(err, &known):
		return err
	case known.Code == stacyvm.CodeInternal && known.Err != nil:
		return fmt.Errorf("%s: %w", known.Message, known.Err)
	}
	return errors.New(known.Message)
}

// importError names what the user named as the source.
func importError(source string, err error) error {
	var known *stacyvm.Error
	if errors.As(err, &known) && known.Field == "source" {
		return fmt.Errorf("%s: %s", printable(source), strings.TrimPrefix(known.Message, "source: "))
	}
	return plainError(err)
}
