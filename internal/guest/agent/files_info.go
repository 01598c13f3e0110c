package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"

	"connectrpc.com/connect"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// special are the bits of a mode beyond the permissions, as the kernel has them and as Go has
// them.
var special = map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky}

func goMode(mode uint32) fs.FileMode {
	result := fs.FileMode(mode) & fs.ModePerm
	for bit, flag := range special {
		if mode&bit != 0 {
			result |= flag
		}
	}
	return result
}

func unixMode(mode fs.FileMode) uint32 {
	result := uint32(mode.Perm())
	for bit, flag := range special {
		if mode&flag != 0 {
			result |= bit
		}
	}
	return result
}

// tell describes what is at a path, without following a last link.
func tell(t tree, path, name string) (*guestv1.FileInfo, error) {
	info, err := t.Lstat(name)
	if err != nil {
		return nil, err
	}
	told := describe(path, info)
	if info.Mode()&fs.ModeSymlink != 0 {
		link, err := t.Readlink(name)
		if err != nil {
			return nil, err
		}
		told.LinkTarget = sound(link)
	}
	return told, nil
}

func describe(path string, info fs.FileInfo) *guestv1.FileInfo {
	return &guestv1.FileInfo{
		Path: sound(path), Size: uint64(max(info.Size(), 0)), Mode: unixMode(info.Mode()), IsDir: info.IsDir(),
		ModifiedUs: info.ModTime().UnixMicro(),
	}
}

// sound makes a name fit for a message. A name that is no UTF-8 is shown with replacement
// characters.
func sound(name string) string { return strings.ToValidUTF8(name, "\uFFFD") }

func wrong(format string, args ...any) error {
	return connect.NewError(connect.CodeInvalidArgument, fmt.Errorf(format, args...))
}

// fileCodes maps what the kernel says; the first that fits counts. Whatever is not here is
// invalid_argument: what is left is mostly a request that the file at hand does not support.
var fileCodes = []struct {
	err  error
	code connect.Code
}{
	{syscall.ENOTEMPTY, connect.CodeFailedPrecondition}, // before fs.ErrExist, which it is too
	{syscall.EBUSY, connect.CodeFailedPrecondition},
	{syscall.ETXTBSY, connect.CodeFailedPrecondition},
	{syscall.EXDEV, connect.CodeFailedPrecondition},
	{fs.ErrNotExist, connect.CodeNotFound},
	{fs.ErrExist, connect.CodeAlreadyExists},
	{fs.ErrPermission, connect.CodePermissionDenied},
	{syscall.EROFS, connect.CodePermissionDenied},
	{syscall.ENOSPC, connect.CodeResourceExhausted},
	{syscall.EDQUOT, connect.CodeResourceExhausted},
	{syscall.EFBIG, connect.CodeResourceExhausted},
	{syscall.ENOMEM, connect.CodeUnavailable},
	{syscall.EMFILE, connect.CodeUnavailable},
	{syscall.ENFILE, connect.CodeUnavailable},
	{syscall.EIO, connect.CodeInternal},
	{context.Canceled, connect.CodeCanceled},
	{context.DeadlineExceeded, connect.CodeDeadlineExceeded},
}

// fileFailure makes an answer of an error. It names the sandbox's path, never the one below a
// private root.
func fileFailure(path string, err error) error {
	var answer *connect.Error
	if err == nil || errors.As(err, &answer) {
		return err
	}
	code := connect.CodeInvalidArgument
	for _, known := range fileCodes {
		if errors.Is(err, known.err) {
			code = known.code
			break
		}
	}
	for inner := errors.Unwrap(err); inner != nil; inner = errors.Unwrap(err) {
		err = inner // the innermost names no path
	}
	return connect.NewError(code, fmt.Errorf("%s: %w", sound(path), err))
}
