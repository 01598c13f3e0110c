package api

import (
	"bytes"
	"slices"
	"unicode/utf8"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Frame is one line of an output stream, or one text message of the WebSocket.
type Frame struct {
	Type       string  `json:"type,omitempty" doc:"keepalive, error or done; absent on output."`
	Stream     string  `json:"stream,omitempty" doc:"stdout or stderr."`
	Offset     *uint64 `json:"offset,omitempty" doc:"Of the first byte; on /output and on gaps."`
	Data       *string `json:"data,omitempty" doc:"Output as text."`
	DataBase64 []byte  `json:"data_base64,omitempty" doc:"Output, with encoding base64."`
	Gap        uint64  `json:"gap,omitempty" doc:"Number of bytes that are missing here."`
	Code       string  `json:"code,omitempty" doc:"Of an error, as in error answers."`
	Error      string  `json:"error,omitempty" doc:"What kept the output from going on."`
}

// lastFrame carries the exit; to clients that know nothing of it, it is an empty piece of output.
type lastFrame struct {
	Type   string `json:"type,omitempty"`
	Stream string `json:"stream,omitempty"`
	Data   string `json:"data"`
	Exit
}

// framer makes frames of a process's events, for one reader.
type framer struct {
	binary  bool // base64 rather than text
	offsets bool // tell where each piece begins
	tails   map[stacyvm.Stream]*tail
}

func newFramer(binary, offsets bool) *framer {
	return &framer{
		binary:  binary,
		offsets: offsets,
		tails:   map[stacyvm.Stream]*tail{stacyvm.Stdout: {}, stacyvm.Stderr: {}},
	}
}

// maxFrame is the most output that one frame holds, in bytes: clients read frames whole.
const maxFrame = 64 << 10

// frames translates an event of output; the exit and keepalives are for the caller.
func (f *framer) frames(event stacyvm.OutputEvent) (frames []Frame) {
	if event.Gap > 0 {
		gap := Frame{Stream: string(event.Stream), Offset: &event.Offset, Gap: event.Gap, Data: new("")}
		return append(f.rest(event.Stream), gap)
	}
	offset := event.Offset
	for data := range slices.Chunk(event.Data, maxFrame) {
		if frame, some := f.frame(event.Stream, offset, data); some {
			frames = append(frames, frame)
		}
		offset += uint64(len(data))
	}
	return frames
}

// frame makes a frame of a piece of output; false: it is only the beginning of a character.
func (f *framer) frame(stream stacyvm.Stream, offset uint64, data []byte) (Frame, bool) {
	if f.binary {
		return f.at(Frame{Stream: string(stream), DataBase64: data}, offset), true
	}
	kept := f.tails[stream]
	offset -= uint64(len(kept.bytes))
	text := kept.add(data)
	return f.at(Frame{Stream: string(stream), Data: &text}, offset), text != ""
}

func (f *framer) at(frame Frame, offset uint64) Frame {
	if f.offsets {
		frame.Offset = &offset
	}
	return frame
}

// rest gives what was kept back of a stream because it began a character that did not come whole.
func (f *framer) rest(stream stacyvm.Stream) []Frame {
	text := f.tails[stream].flush()
	if text == "" {
		return nil
	}
	return []Frame{{Stream: string(stream), Data: &text}}
}

// end gives what is left before the exit.
func (f *framer) end() []Frame { return append(f.rest(stacyvm.Stdout), f.rest(stacyvm.Stderr)...) }

// tail keeps the incomplete character at the end of a piece of text until its rest comes.
type tail struct{ bytes []byte }

// add gives the text up to the last whole character.
func (t *tail) add(data []byte) string {
	if len(t.bytes) > 0 {
		data = append(t.bytes, data...)
	}
	cut := len(data) - incomplete(data)
	text := printable(data[:cut])
	t.bytes = bytes.Clone(data[cut:])
	return text
}

func (t *tail) flush() string {
	text := printable(t.bytes)
	t.bytes = nil
	return text
}

// incomplete gives the number of bytes at the end of data that begin a character without ending
// it.
func incomplete(data []byte) int {
	for n := 1; n < utf8.UTFMax && n <= len(data); n++ {
		last := data[len(data)-n:]
		if utf8.RuneStart(last[0]) {
			if utf8.FullRune(last) {
				return 0
			}
			return n
		}
	}
	return 0
}
