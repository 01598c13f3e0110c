package control

import (
	"context"
	"io"
	"path"

	"github.com/stacyvm/stacyvm/internal/auth"
	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	maxPath = 4096
	maxMode = 0o7777
)

// checkPath refuses what no file system takes. A relative path starts at /workspace.
func checkPath(field, name string) error {
	if name == "" || len(name) > maxPath || !storable(name) {
		return stacyvm.Invalid(field, "must be a path of 1 to %d bytes of UTF-8 text without zero bytes", maxPath)
	}
	return nil
}

func checkMode(mode uint32) error {
	if mode > maxMode {
		return stacyvm.Invalid("mode", "must be octal, at most 7777")
	}
	return nil
}

// fileChange is one call that changes files, with its audit line. bad is what its checks found.
func (s *Service) fileChange(
	ctx context.Context, id stacyvm.SandboxID, action, name string, bad error, change func(*guest.Client) error,
) error {
	t := targetOf(ctx, id)
	err := t.caller.Require(auth.ScopeAPIFiles)
	if err == nil {
		err = bad
	}
	if err == nil {
		err = s.once(ctx, &t, guest.ScopeFiles, change)
	}
	return s.record(ctx, t, action, name, err)
}

// fileQuestion is one call that only looks, with its audit line. bad is what its checks found.
func (s *Service) fileQuestion(
	ctx context.Context, id stacyvm.SandboxID, action, name string, bad error, question func(*guest.Client) error,
) error {
	t := targetOf(ctx, id)
	err := t.caller.Require(auth.ScopeReadSandboxes)
	if err == nil {
		err = bad
	}
	if err == nil {
		err = s.ask(ctx, &t, guest.ScopeFiles, question)
	}
	return s.record(ctx, t, action, name, err)
}

// ReadFile opens a file for reading; close it. CodeNotFound: no such sandbox or file;
// CodeInvalid: a directory.
func (s *Service) ReadFile(ctx context.Context, id stacyvm.SandboxID, name string) (file *File, err error) {
	err = s.fileQuestion(ctx, id, "file.read", name, checkPath("path", name), func(client *guest.Client) error {
		info, body, err := client.ReadFile(ctx, name)
		if err == nil {
			file = &File{Info: info, ReadCloser: body}
		}
		return err
	})
	if err != nil && file != nil {
		_ = file.Close() // the audit line could not be written
		file = nil
	}
	return file, err
}

// WriteFile puts a file in place, whole or not at all, and makes its parents. CodeInvalid: a
// directory is there, or a bad path, mode or user; CodeStorageFull: the sandbox's disk is full.
func (s *Service) WriteFile(
	ctx context.Context, id stacyvm.SandboxID, request WriteRequest,
) (info stacyvm.FileInfo, err error) {
	bad := checkPath("path", request.Path)
	if bad == nil {
		bad = checkMode(request.Mode)
	}
	if bad == nil {
		bad = checkUser(request.User)
	}
	err = s.fileChange(ctx, id, "file.write", request.Path, bad, func(client *guest.Client) error {
		info, err = client.WriteFile(ctx, request.Path, request.Mode, request.User, request.Body)
		return err
	})
	return info, err
}

// ListFiles lists a directory, sorted by name.
func (s *Service) ListFiles(
	ctx context.Context, id stacyvm.SandboxID, name string,
) (files []stacyvm.FileInfo, err error) {
	err = s.fileQuestion(ctx, id, "file.list", name, checkPath("path", name), func(client *guest.Client) error {
		files, err = client.ListFiles(ctx, name)
		return err
	})
	return files, err
}

// StatFile tells of one file; it does not follow a last symbolic link.
func (s *Service) StatFile(ctx context.Context, id stacyvm.SandboxID, name string) (info stacyvm.FileInfo, err error) {
	err = s.fileQuestion(ctx, id, "file.stat", name, checkPath("path", name), func(client *guest.Client) error {
		info, err = client.StatFile(ctx, name)
		return err
	})
	return info, err
}

// GlobFiles gives the absolute paths that match; ** crosses directories. CodeInvalid: a bad
// pattern.
func (s *Service) GlobFiles(ctx context.Context, id stacyvm.SandboxID, pattern string) (paths []string, err error) {
	err = s.fileQuestion(ctx, id, "file.glob", pattern, checkPath("pattern", pattern),
		func(client *guest.Client) error {
			paths, err = client.GlobFiles(ctx, pattern)
			return err
		})
	return paths, err
}

// MakeDir makes a directory and its parents; mode 0 is 0755.
func (s *Service) MakeDir(ctx context.Context, id stacyvm.SandboxID, name string, mode uint32) error {
	bad := checkPath("path", name)
	if bad == nil {
		bad = checkMode(mode)
	}
	return s.fileChange(ctx, id, "file.mkdir", name, bad, func(client *guest.Client) error {
		return client.MakeDir(ctx, name, mode)
	})
}

// MoveFile renames a file or directory and makes the target's parents.
func (s *Service) MoveFile(ctx context.Context, id stacyvm.SandboxID, from, to string) error {
	bad := checkPath("old_path", from)
	if bad == nil {
		bad = checkPath("new_path", to)
	}
	return s.fileChange(ctx, id, "file.move", from+" -> "+to, bad, func(client *guest.Client) error {
		return client.MoveFile(ctx, from, to)
	})
}

// ChmodFile sets a file's permission bits.
func (s *Service) ChmodFile(ctx context.Context, id stacyvm.SandboxID, name string, mode uint32) error {
	bad := checkPath("path", name)
	if bad == nil {
		bad = checkMode(mode)
	}
	return s.fileChange(ctx, id, "file.chmod", name, bad, func(client *guest.Client) error {
		return client.ChmodFile(ctx, name, mode)
	})
}

// RemoveFile removes a file, or with recursive a directory and all below it. The root directory
// stays.
func (s *Service) RemoveFile(ctx context.Context, id stacyvm.SandboxID, name string, recursive bool) error {
	bad := checkPath("path", name)
	if bad == nil && path.Clean("/"+name) == "/" && path.IsAbs(name) {
		bad = stacyvm.Invalid("path", "the root directory cannot be removed")
	}
	return s.fileChange(ctx, id, "file.delete", name, bad, func(client *guest.Client) error {
		return client.RemoveFile(ctx, name, recursive)
	})
}

// ArchiveRequest unpacks a tar archive into a directory.
type ArchiveRequest struct {
	Path string // made when it is missing
	User string // owner of what is new; empty: the image's
	Body io.Reader
}

// ReadArchive opens a directory as a tar archive, which is the sandbox's own work; close it.
// CodeNotFound: no such sandbox or directory; CodeInvalid: not a directory.
func (s *Service) ReadArchive(
	ctx context.Context, id stacyvm.SandboxID, name string,
) (archive io.ReadCloser, err error) {
	err = s.fileQuestion(ctx, id, "file.read", name, checkPath("path", name), func(client *guest.Client) (err error) {
		archive, err = client.PackFiles(ctx, name)
		return err
	})
	if err != nil && archive != nil {
		_ = archive.Close() // the audit line could not be written
	}
	return archive, err
}

// WriteArchive unpacks a tar archive. Each file is whole or not there; what one entry meets is in
// the answer and stops no other. CodeInvalid: not an archive, or a bad path or user;
// CodeStorageFull: the sandbox's disk is full.
func (s *Service) WriteArchive(
	ctx context.Context, id stacyvm.SandboxID, request ArchiveRequest,
) (unpacked stacyvm.Unpacked, err error) {
	bad := checkPath("path", request.Path)
	if bad == nil {
		bad = checkUser(request.User)
	}
	err = s.fileChange(ctx, id, "file.write", request.Path, bad, func(client *guest.Client) (err error) {
		unpacked, err = client.UnpackFiles(ctx, request.Path, request.User, request.Body)
		return err
	})
	return unpacked, err
}
