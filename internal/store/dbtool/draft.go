package dbtool

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/dberr"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqlite"
)

// sumSuffix is the name of a backup's checksum, in the form that sha256sum reads.
const sumSuffix = ".sha256"

// maxSums bounds a checksum file.
const maxSums = 1 << 20

// draft is a private directory beside a file's final place. What is made in it appears there whole
// or not at all.
type draft struct {
	out   string
	dir   string
	force bool
}

// newDraft refuses what would overwrite something without force. Call discard.
func newDraft(out string, force bool) (*draft, error) {
	out, err := filepath.Abs(out)
	if err != nil {
		return nil, stacyvm.Wrap(stacyvm.CodeInvalid, err, "the output's path cannot be resolved")
	}
	d := &draft{out: out, force: force}
	if err := d.free(); err != nil {
		return nil, err
	}
	if d.dir, err = os.MkdirTemp(filepath.Dir(out), "."+filepath.Base(out)+".part-*"); err != nil { // mode 0700
		return nil, dberr.Unwritable(err)
	}
	return d, nil
}

// free refuses an output that exists and may not be replaced.
func (d *draft) free() error {
	info, err := os.Lstat(d.out)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return dberr.Unwritable(err)
	case !d.force:
		return errTaken
	case info.Mode().IsRegular():
		return nil
	}
	return stacyvm.Errorf(stacyvm.CodeConflict, "the output is no file: choose another name")
}

var errTaken = stacyvm.Errorf(
	stacyvm.CodeConflict,
	"the output exists already: choose another name, or replace it with --force",
)

// path is where the content is made.
func (d *draft) path() string { return filepath.Join(d.dir, filepath.Base(d.out)) }

func (d *draft) discard() { _ = os.RemoveAll(d.dir) } // after publish: empty; else a failure is being told already

// publish puts the content and its checksums in place, on disk. The old checksum goes first and
// the new one comes last, so that a crash in between leaves a whole file without a checksum.
func (d *draft) publish(sums string) error {
	if err := os.WriteFile(d.path()+sumSuffix, []byte(sums), 0o600); err != nil {
		return dberr.Unwritable(err)
	}
	if err := errors.Join(sqlite.SyncPath(d.path()), sqlite.SyncPath(d.path()+sumSuffix)); err != nil {
		return dberr.Unwritable(err)
	}
	if err := os.Remove(d.out + sumSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return dberr.Unwritable(err)
	}
	if err := d.place(); err != nil {
		return err
	}
	if err := os.Rename(d.path()+sumSuffix, d.out+sumSuffix); err != nil {
		return dberr.Unwritable(err)
	}
	return dberr.Unwritable(sqlite.SyncPath(filepath.Dir(d.out)))
}

// place moves the content to its name. Without force a name that was taken meanwhile stays as it
// is.
func (d *draft) place() error {
	if d.force {
		return dberr.Unwritable(os.Rename(d.path(), d.out))
	}
	// no hard links to directories; rename replaces none that holds something
	if info, err := os.Lstat(d.path()); err != nil || info.IsDir() {
		return dberr.Unwritable(errors.Join(err, os.Rename(d.path(), d.out)))
	}
	switch err := os.Link(d.path(), d.out); {
	case errors.Is(err, fs.ErrExist):
		return errTaken
	case err == nil:
		return nil
	}
	// A file system without hard links.
	if err := d.free(); err != nil {
		return err
	}
	return dberr.Unwritable(os.Rename(d.path(), d.out))
}

// sum gives a file's SHA-256 in hex.
func sum(ctx context.Context, path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, contextReader{ctx, file}); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

// contextReader reads until its context ends.
type contextReader struct {
	ctx  context.Context
	from io.Reader
}

func (r contextReader) Read(b []byte) (int, error) {
	if err := dberr.Context(r.ctx); err != nil {
		return 0, err
	}
	return r.from.Read(b)
}

// sumLine is a line of sha256sum for the file of that name.
func sumLine(hash, name string) string { return hash + "  " + name + "\n" }

// recorded reads the checksum beside a backup; "" without one.
func recorded(backup string) (string, error) {
	file, err := os.Open(backup + sumSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", dberr.Unreadable(err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxSums))
	if err != nil {
		return "", dberr.Unreadable(err)
	}
	hash, _, _ := strings.Cut(string(text), " ")
	if _, err := hex.DecodeString(hash); err != nil || len(hash) != 2*sha256.Size {
		return "", stacyvm.Errorf(stacyvm.CodeInvalid, "the file beside the backup is not a checksum")
	}
	return strings.ToLower(hash), nil
}
