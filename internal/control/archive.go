package control

import (
	"context"
	"io"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// ArchiveRequest unpacks a tar archive into a directory.
type ArchiveRequest struct {
	Path string // made when it is missing
	User string // owner of what is new; empty: the image's
	Body io.Reader
}

// ReadArchive opens a directory as a tar archive, which is the sandbox's own work; close it. CodeNotFound: no such sandbox or
// directory; CodeInvalid: not a directory.
func (s *Service) ReadArchive(ctx context.Context, id stacyvm.SandboxID, name string) (archive io.ReadCloser, err error) {
	err = s.fileQuestion(ctx, id, "file.read", name, checkPath("path", name), func(client *guest.Client) (err error) {
		archive, err = client.PackFiles(ctx, name)
		return err
	})
	if err != nil && archive != nil {
		_ = archive.Close() // the audit line could not be written
	}
	return archive, err
}

// WriteArchive unpacks a tar archive. Each file is whole or not there; what one entry meets is in the answer and stops no
// other. CodeInvalid: not an archive, or a bad path or user; CodeStorageFull: the sandbox's disk is full.
func (s *Service) WriteArchive(ctx context.Context, id stacyvm.SandboxID, request ArchiveRequest) (unpacked stacyvm.Unpacked, err error) {
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
