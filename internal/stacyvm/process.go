package stacyvm

import (
	"strings"
	"time"
)

// Stream names one of a process's output streams.
type Stream string

const (
	// Stdout is standard output; with a terminal, everything it prints.
	Stdout Stream = "stdout"
	// Stderr is standard error.
	Stderr Stream = "stderr"
)

// Command is what to run and how. Argv is never empty; a shell command is already {"/bin/sh",
// "-c", text}.
type Command struct {
	ProcessID string // chosen by the caller to make a retry idempotent; empty: the guest chooses
	Argv      []string
	Label     string // shown in lists and logs in place of Argv
	Tag       string // kept with the process: see Process.Tag
	Env       map[string]string
	Workdir   string
	User      string        // name or uid, alone or with :group or :gid; empty: the image's
	Timeout   time.Duration // 0: none
	Terminal  *Terminal
	Stdin     bool // keep standard input open
	Lossless  bool // unread output blocks the process instead of being dropped
}

// Display is the command as lists and logs show it.
func (c Command) Display() string {
	if c.Label != "" {
		return c.Label
	}
	return strings.Join(c.Argv, " ")
}

// Terminal is a window's size in characters.
type Terminal struct{ Rows, Cols uint16 }

// Process is what the guest says of one process.
type Process struct {
	ID        string
	PID       int64 // inside the sandbox; 0: it could not be started
	Argv      []string
	Label     string
	Tag       string // of the command that started it: a repeat with the same ProcessID finds the first one's
	Replayed  bool   // an earlier request with the same key had started it
	Workdir   string
	User      string
	Terminal  bool
	StdinOpen bool
	Lossless  bool
	StartedAt time.Time
	EndedAt   time.Time // zero while it runs
	Stdout    StreamState
	Stderr    StreamState
	Exit      *Exit // nil while it runs
}

// StreamState tells what of a stream can be read: bytes First up to Bytes.
type StreamState struct{ First, Bytes uint64 }

// Exit is how a process ended. It is a result, whatever the code.
type Exit struct {
	Code         int
	Signal       int // 0: none
	TimedOut     bool
	OOM          bool   // it, or a process that it had started, was ended because the sandbox was out of memory
	Error        string // why it could not be started (codes 126, 127)
	StdoutBytes  uint64
	StderrBytes  uint64
	StdoutSHA256 []byte
	StderrSHA256 []byte
	StreamsHeld  bool // a child that was left behind still held a stream
	Duration     time.Duration
}

// OutputEvent is one step of a process's output. Exactly one of Started, Data, Gap, Exit is set,
// none for a keepalive.
type OutputEvent struct {
	Started *Process
	Stream  Stream // of Data and Gap
	Offset  uint64 // of the first byte of Data or Gap
	Data    []byte // valid until the next event is asked for
	Gap     uint64 // number of bytes that were dropped before this reader could get them
	Exit    *Exit
}

// FileInfo is what the guest says of one file.
type FileInfo struct {
	Path       string
	Size       uint64
	Mode       uint32 // permission bits with setuid, setgid, sticky
	IsDir      bool
	ModifiedAt time.Time
	LinkTarget string
}

// Unpacked tells how an archive was unpacked.
type Unpacked struct {
	Entries  uint64 // that are in place
	Failed   uint64
	Failures []UnpackFailure // the first ones
}

// UnpackFailure is an entry of an archive that is not in place.
type UnpackFailure struct{ Name, Reason string }

// Stats is a sandbox's use of resources.
type Stats struct {
	MemoryBytes, MemoryLimitBytes uint64
	CPUTime                       time.Duration // of all processes since boot
	Processes                     int
	DiskBytes, DiskLimitBytes     uint64
}
