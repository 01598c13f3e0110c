package control

import (
	"context"
	"io"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// client stands in for the guest client until that exists.
type client struct{}

func newClient(guest.Conn) *client { return &client{} }

var soon = stacyvm.Errorf(stacyvm.CodeUnavailable, "not built yet")

func (*client) Run(context.Context, stacyvm.Command) (Output, error) { return nil, soon }
func (*client) Attach(context.Context, string, uint64, uint64, bool) (Output, error) {
	return nil, soon
}
func (*client) Start(context.Context, stacyvm.Command) (p stacyvm.Process, err error) { return p, soon }
func (*client) Wait(context.Context, string) (p stacyvm.Process, err error)           { return p, soon }
func (*client) Processes(context.Context) ([]stacyvm.Process, error)                  { return nil, soon }
func (*client) Input(context.Context, string, []byte, *uint64, bool) (uint64, error)  { return 0, soon }
func (*client) Signal(context.Context, string, int) error                             { return soon }
func (*client) Resize(context.Context, string, stacyvm.Terminal) error                { return soon }
func (*client) ReadFile(context.Context, string) (i stacyvm.FileInfo, r io.ReadCloser, err error) {
	return i, r, soon
}
func (*client) WriteFile(context.Context, string, uint32, string, io.Reader) (i stacyvm.FileInfo, err error) {
	return i, soon
}
func (*client) ListFiles(context.Context, string) ([]stacyvm.FileInfo, error)    { return nil, soon }
func (*client) StatFile(context.Context, string) (i stacyvm.FileInfo, err error) { return i, soon }
func (*client) GlobFiles(context.Context, string) ([]string, error)              { return nil, soon }
func (*client) MakeDir(context.Context, string, uint32) error                    { return soon }
func (*client) MoveFile(context.Context, string, string) error                   { return soon }
func (*client) ChmodFile(context.Context, string, uint32) error                  { return soon }
func (*client) RemoveFile(context.Context, string, bool) error                   { return soon }
func (*client) Tail(context.Context, int) ([]string, error)                      { return nil, soon }
func (*client) Stats(context.Context) (s stacyvm.Stats, err error)               { return s, soon }
