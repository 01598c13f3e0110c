package stacyvm

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
)

// TestWrapWithoutDescriptors: that no file descriptor is left is nobody's fault, whichever part
// meets it.
func TestWrapWithoutDescriptors(t *testing.T) {
	for _, errno := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE} {
		cause := fmt.Errorf("look: %w", &os.PathError{Op: "open", Path: "/some/path", Err: errno})
		err := Wrap(CodeInternal, cause, "the directory cannot be locked")
		if err.Code != CodeUnavailable || !strings.HasPrefix(err.Message, "the directory cannot be locked: ") {
			t.Errorf("%v: %+v", errno, err)
		}
		if strings.Contains(err.Message, "/some/path") || !errors.Is(err, errno) {
			t.Errorf("%v: %+v", errno, err)
		}
	}
	if err := Wrap(CodeInternal, syscall.EACCES, "no"); err.Code != CodeInternal || err.Message != "no" {
		t.Errorf("another cause: %+v", err)
	}
}
