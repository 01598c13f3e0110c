package control

import (
	"context"
	"io"
	"time"

	"github.com/stacyvm/stacyvm/internal/budget"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// CreateRequest asks for a sandbox; empty fields take the defaults.
type CreateRequest struct {
	Image       string
	Provider    string
	MemoryMB    int
	VCPUs       int
	DiskMB      int
	TTL         *time.Duration // nil: the default
	OwnerID     string
	Metadata    map[string]string
	NetworkMode string
	Template    string
	Env         map[string]string
	Selector    map[string]string // labels that the worker must have
}

// Idempotency makes a create or an exec repeatable. The zero value turns it off.
type Idempotency struct {
	Key      string // 1-255 visible ASCII characters
	Route    string
	BodyHash string // SHA-256 of the canonical body
}

// ExecRequest is one command. Mode "shell" (the default) runs Command with Args appended, each
// quoted; "argv" runs Command with Args untouched.
type ExecRequest struct {
	ProcessID string
	// Key makes a repeat find the first request's process instead of running the command twice.
	// It excludes ProcessID.
	Key      Idempotency
	Command  string
	Args     []string
	Mode     string
	Env      map[string]string
	Workdir  string
	User     string
	Timeout  *time.Duration // nil: the default
	Terminal *stacyvm.Terminal
	Stdin    bool
	Lossless bool
	// Input is given to the command and then closed. It excludes Stdin.
	Input []byte
}

// ExecResult is a finished command with its output, each stream kept to MaxKept bytes.
type ExecResult struct {
	Process   stacyvm.Process
	Exit      stacyvm.Exit
	Stdout    budget.Buffer
	Stderr    budget.Buffer
	Truncated bool
	// Elsewhere: the request's budget has no room for the output. The guest still keeps it:
	// attach to the process.
	Elsewhere bool
}

// Output is a process's output as it comes. Close it; the process goes on.
type Output interface {
	// Next gives the next event. io.EOF comes after the exit event. A connection to the guest
	// that breaks is made again from the last offset, unseen by the caller.
	Next(ctx context.Context) (stacyvm.OutputEvent, error)
	Close() error
}

// AttachRequest says from where to read.
type AttachRequest struct {
	StdoutOffset uint64
	StderrOffset uint64
	NoFollow     bool // end after what is there now
}

// InputRequest is bytes for standard input.
type InputRequest struct {
	Data   []byte
	Offset *uint64 // of Data's first byte, to make a retry idempotent
	Close  bool
}

// File is a file's content as it comes.
type File struct {
	Info stacyvm.FileInfo
	io.ReadCloser
}

// WriteRequest puts a file in place, whole or not at all.
type WriteRequest struct {
	Path string
	Mode uint32 // 0: 0644, or what the file had
	User string
	Body io.Reader
}
