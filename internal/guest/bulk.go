package guest

import (
	"net/http"
	"strconv"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/budget"
)

const (
	// FrameHeader says in a request, in bytes, how large the data frames of its answer may be. One
	// without it gets frames of at most 64 KiB. A guest of an earlier release does not know it.
	FrameHeader = "Stacyvm-Max-Frame"
	// LargeFrame is the most that a data frame of an answer holds where the caller takes so much,
	// in bytes. Few large frames are far fewer system calls, which are slow in a sandbox.
	LargeFrame = 256 << 10
	// mostLarge bounds how many answers with large frames are open at once in this process:
	// someone who does not read them holds up to three frames of each.
	mostLarge = 256
)

var largeFrames = budget.NewSlots(mostLarge)

// bulk makes a request whose answer may be long. most is the largest data frame that may come;
// release must be called when the answer is over.
func bulk[Q any](question *Q) (request *connect.Request[Q], most int, release func()) {
	request = connect.NewRequest(question)
	release, err := largeFrames.Acquire()
	if err != nil {
		return request, maxData, func() {}
	}
	request.Header().Set(FrameHeader, strconv.Itoa(LargeFrame))
	return request, LargeFrame, release
}

// frameSize is how large the frames of an upload are: more while they come as fast as they are
// taken. Release it.
type frameSize struct {
	large bool
	done  func()
}

// grow doubles the size of a frame that was full, in bytes; false: it stays.
func (s *frameSize) grow(size *int) bool {
	if *size >= LargeFrame {
		return false
	}
	if *size >= maxData && !s.large {
		done, err := largeFrames.Acquire()
		if err != nil {
			return false
		}
		s.large, s.done = true, done
	}
	*size = min(2**size, LargeFrame)
	return true
}

func (s *frameSize) release() {
	if s.large {
		s.done()
	}
}

// FrameOf gives the largest data frame that the caller of a request takes: LargeFrame or least.
func FrameOf(header http.Header, least int) int {
	if n, err := strconv.Atoi(header.Get(FrameHeader)); err == nil && n >= LargeFrame {
		return LargeFrame
	}
	return least
}
