// Package dberr makes the errors that both databases and the tools for them have in common. It
// knows no driver. No message holds SQL or a path.
package dberr

import (
	"context"
	"errors"
	"syscall"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// ErrClosed is the answer of a store after Close.
var ErrClosed = stacyvm.Errorf(stacyvm.CodeUnavailable, "the database is closed")

// Context is the error of a context that ended, CodeUnavailable; nil while the context lives.
func Context(ctx context.Context) error {
	switch err := ctx.Err(); {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the database did not answer in time")
	default:
		return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the call was given up")
	}
}

// UnknownDriver refuses a driver's name in a configuration. CodeInvalid.
func UnknownDriver(driver string) error {
	return stacyvm.Invalid(
		"database.driver",
		"%.32q is not known: use sqlite (also sqlite3) or postgres (also postgresql)",
		driver,
	)
}

// DiskFull is the error of a database without space. CodeStorageFull.
func DiskFull(err error) error {
	return stacyvm.Wrap(stacyvm.CodeStorageFull, err, "no space is left for the database")
}

// Damaged is the error of a database file that is not whole. CodeInternal.
func Damaged(err error) error {
	return stacyvm.Wrap(stacyvm.CodeInternal, err, "the database file is damaged: restore a backup")
}

// Unreadable is the error of a file that a tool reads: CodeInvalid, unless err has a code already.
// Nil stays nil.
func Unreadable(err error) error {
	var known *stacyvm.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return stacyvm.Wrap(stacyvm.CodeInvalid, err, "the file cannot be read")
}

// Unwritable is the error of a file that a tool writes: CodeStorageFull or CodeUnavailable, unless
// err has a code already. Nil stays nil.
func Unwritable(err error) error {
	var known *stacyvm.Error
	switch {
	case err == nil || errors.As(err, &known):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return stacyvm.Wrap(stacyvm.CodeStorageFull, err, "no space is left for the output")
	}
	return stacyvm.Wrap(stacyvm.CodeUnavailable, err, "the output cannot be written")
}
