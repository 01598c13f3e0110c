package guest

import (
	"crypto/sha256"
	"math"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

const (
	maxName = 64       // bytes of an id or a user
	maxTag  = 128      // bytes of a tag
	maxText = 4096     // bytes of a path, an argument or a label
	maxArgv = 64 << 10 // bytes of all arguments that are shown
)

// text gives at most limit bytes of a guest's string, as UTF-8 without a cut character.
func text(s string, limit int) string {
	if len(s) > limit {
		s = s[:limit]
		for i := len(s) - 1; i >= max(len(s)-utf8.UTFMax, 0); i-- {
			if utf8.RuneStart(s[i]) {
				if !utf8.FullRuneInString(s[i:]) {
					s = s[:i]
				}
				break
			}
		}
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// earliest and latest are the years that every encoding of a time can hold.
var (
	earliest = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC).UnixMicro()
	latest   = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC).UnixMicro()
)

// moment makes a time of Unix microseconds, whatever they are; 0 is the zero time.
func moment(us int64) time.Time {
	if us == 0 {
		return time.Time{}
	}
	return time.UnixMicro(min(max(us, earliest), latest)).UTC()
}

// span makes a duration of microseconds, never negative and never overflown.
func span[T int64 | uint64](us T) time.Duration {
	return time.Duration(min(uint64(max(us, 0)), math.MaxInt64/1000)) * time.Microsecond
}

// arguments gives as much of an argument vector as is worth showing.
func arguments(argv []string) []string {
	shown := make([]string, 0, min(len(argv), 64))
	left := maxArgv
	for _, arg := range argv {
		arg = text(arg, maxText)
		if left -= len(arg) + 1; left < 0 {
			break
		}
		shown = append(shown, arg)
	}
	return shown
}

// process reads what a guest says of a process. id, when it is known, is taken from the caller and
// not from the guest.
func process(p *guestv1.Process, id string) stacyvm.Process {
	if id == "" {
		id = text(p.GetId(), maxName)
	}
	read := stacyvm.Process{
		ID:        id,
		PID:       max(p.GetPid(), 0),
		Argv:      arguments(p.GetArgv()),
		Label:     text(p.GetLabel(), maxText),
		Tag:       text(p.GetTag(), maxTag),
		Workdir:   text(p.GetWorkdir(), maxText),
		User:      text(p.GetUser(), maxName),
		Terminal:  p.GetTerminal(),
		StdinOpen: p.GetStdinOpen(),
		Lossless:  p.GetLossless(),
		StartedAt: moment(p.GetStartedUs()),
		EndedAt:   moment(p.GetEndedUs()),
		Stdout:    extent(p.GetStdout()),
		Stderr:    extent(p.GetStderr()),
	}
	if p.GetExit() != nil {
		read.Exit = exit(p.GetExit())
	}
	return read
}

func extent(s *guestv1.StreamState) stacyvm.StreamState {
	return stacyvm.StreamState{First: min(s.GetFirst(), s.GetBytes()), Bytes: s.GetBytes()}
}

// exit reads how a process ended. A code that no process can have reads 255.
func exit(e *guestv1.Exit) *stacyvm.Exit {
	code := int(e.GetCode())
	if code < 0 || code > 255 {
		code = 255
	}
	return &stacyvm.Exit{
		Code:         code,
		Signal:       int(min(max(e.GetSignal(), 0), 64)),
		TimedOut:     e.GetTimedOut(),
		OOM:          e.GetOom(),
		Error:        phrase(e.GetError()),
		StdoutBytes:  e.GetStdoutBytes(),
		StderrBytes:  e.GetStderrBytes(),
		StdoutSHA256: digest(e.GetStdoutSha256()),
		StderrSHA256: digest(e.GetStderrSha256()),
		StreamsHeld:  e.GetStreamsHeld(),
		Duration:     span(e.GetDurationUs()),
	}
}

func digest(sum []byte) []byte {
	if len(sum) != sha256.Size {
		return nil
	}
	return sum
}

// file reads what a guest says of a file.
func file(f *guestv1.FileInfo) stacyvm.FileInfo {
	return stacyvm.FileInfo{
		Path:       text(f.GetPath(), maxText),
		Size:       f.GetSize(),
		Mode:       f.GetMode() & 0o7777,
		IsDir:      f.GetIsDir(),
		ModifiedAt: moment(f.GetModifiedUs()),
		LinkTarget: text(f.GetLinkTarget(), maxText),
	}
}
