package dbtool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/store/internal/dberr"
	"github.com/stacyvm/stacyvm/internal/store/internal/sqlite"
)

// DumpFormats are pg_dump's, as DumpRequest takes them.
var DumpFormats = []string{"plain", "custom", "directory", "tar"}

// dumpEnd is how a dump as text ends.
const dumpEnd = "-- PostgreSQL database dump complete"

// DumpRequest asks for a copy of a PostgreSQL database.
type DumpRequest struct {
	DSN    string
	Out    string // a file, or a directory with the format directory
	Format string // one of DumpFormats
}

// Dump is a copy that was made.
type Dump struct {
	Bytes int64
	Files int
}

// DumpPostgres has pg_dump copy a database as it is at one moment; nobody waits for it. The
// connection string reaches it in memory alone: not by its arguments, its environment or a file.
// The copy has mode 0600 and checksums beside it, and appears whole or not at all. CodeInvalid:
// the request is wrong; CodeConflict: the output exists; CodeUnsupported: pg_dump is not
// installed; CodeUnavailable: it failed, with its words as the cause.
func DumpPostgres(ctx context.Context, r DumpRequest) (made Dump, err error) {
	if !slices.Contains(DumpFormats, r.Format) {
		return made, stacyvm.Invalid("format", "%.32q is not one of %s", r.Format, strings.Join(DumpFormats, ", "))
	}
	service, secrets, err := serviceFile(r.DSN)
	if err != nil {
		return made, err
	}
	d, err := newDraft(r.Out, false)
	if err != nil {
		return made, err
	}
	defer d.discard()
	err = client(ctx, secrets, service, "pg_dump", "--no-password", "--format="+r.Format, "--file="+d.path())
	if err != nil {
		return made, err
	}
	if err := verifyDump(ctx, d.path(), r.Format); err != nil {
		return made, err
	}
	made, sums, err := seal(ctx, d.path())
	if err != nil {
		return made, err
	}
	return made, d.publish(sums)
}

// verifyDump reads the copy's table of contents, or its end.
func verifyDump(ctx context.Context, path, format string) error {
	if format != "plain" {
		return client(ctx, nil, "", "pg_restore", "--list", "--file=/dev/null", path)
	}
	content, err := os.Open(path)
	if err != nil {
		return dberr.Unreadable(err)
	}
	defer content.Close()
	end := make([]byte, 4096)
	info, err := content.Stat()
	if err != nil {
		return dberr.Unreadable(err)
	}
	n, _ := content.ReadAt(end, max(0, info.Size()-int64(len(end)))) // io.EOF, or it holds no mark
	if !bytes.Contains(end[:n], []byte(dumpEnd)) {
		return stacyvm.Errorf(stacyvm.CodeInternal, "pg_dump's output is cut off")
	}
	return nil
}

// seal takes the copy's files from everybody but their owner, puts them on disk and gives their
// checksums.
func seal(ctx context.Context, path string) (made Dump, sums string, err error) {
	above := filepath.Dir(path)
	err = filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return errors.Join(os.Chmod(name, 0o700), sqlite.SyncPath(name))
		}
		if err := errors.Join(os.Chmod(name, 0o600), sqlite.SyncPath(name)); err != nil {
			return err
		}
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		hash, err := sum(ctx, name)
		below, _ := filepath.Rel(above, name) // it is below
		made.Bytes, made.Files, sums = made.Bytes+info.Size(), made.Files+1, sums+sumLine(hash, below)
		return err
	})
	return made, sums, dberr.Unwritable(err)
}

// client runs one of PostgreSQL's programs. service, when it is not empty, is its pg_service.conf,
// which it inherits as an open file in memory.
func client(ctx context.Context, secrets []string, service, name string, args ...string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return stacyvm.Wrap(
			stacyvm.CodeUnsupported,
			err,
			name+" is not installed: on Debian it is in the package postgresql-client",
		)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = slices.DeleteFunc(os.Environ(), func(pair string) bool {
		return strings.HasPrefix(pair, "STACYVM_") || strings.HasPrefix(pair, "PGSERVICE") ||
			strings.HasPrefix(pair, "PGPASS")
	})
	if service != "" {
		file, err := inMemory(service)
		if err != nil {
			return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the connection cannot be handed over")
		}
		defer file.Close()
		cmd.ExtraFiles = []*os.File{file}
		cmd.Env = append(cmd.Env, "PGSERVICEFILE=/proc/self/fd/3", "PGSERVICE="+serviceName)
	}
	words := &tail{limit: 4096}
	cmd.Stderr = words
	if err := cmd.Run(); err != nil {
		if ended := dberr.Context(ctx); ended != nil {
			return ended
		}
		return stacyvm.Wrap(stacyvm.CodeUnavailable, hidden(fmt.Errorf("%w: %s", err, words), secrets), name+" failed")
	}
	return nil
}

// inMemory is a file that is on no disk.
func inMemory(content string) (*os.File, error) {
	fd, err := unix.MemfdCreate("pg_service.conf", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(fd), "pg_service.conf")
	_, err = file.WriteString(content)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// hidden is an error without the secrets.
func hidden(err error, secrets []string) error {
	text := err.Error()
	for _, secret := range secrets {
		if secret != "" {
			text = strings.ReplaceAll(text, secret, "[redacted]")
		}
	}
	return errors.New(text)
}

// tail keeps the last bytes that were written.
type tail struct {
	text  []byte
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-t.limit):]
	return len(p), nil
}

func (t *tail) String() string { return strings.TrimSpace(string(t.text)) }
