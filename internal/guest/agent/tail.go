package agent

import (
	"bytes"
	"strings"
	"sync"
)

const (
	longestLine  = 4 << 10
	mostLines    = 10_000
	tailMemory   = 1 << 20
	defaultLines = 100
)

// tail keeps the last lines of all processes, in the order in which they were finished, within
// tailMemory.
type tail struct {
	mu   sync.Mutex
	text []byte // whole lines, each with its end
}

// append adds whole lines.
func (t *tail) append(lines []byte) {
	if len(lines) == 0 {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.text)+len(lines) > tailMemory { // keep the newer half: moving bytes is rare then
		keep := t.text[len(t.text)-min(len(t.text), tailMemory/2):]
		if at := bytes.IndexByte(keep, '\n'); len(keep) < len(t.text) {
			keep = keep[at+1:]
		}
		t.text = append(t.text[:0], keep...)
	}
	t.text = append(t.text, lines...)
}

// last gives up to n lines, oldest first, as valid UTF-8.
func (t *tail) last(n int) []string {
	t.mu.Lock()
	start := len(t.text)
	for range n + 1 {
		at := bytes.LastIndexByte(t.text[:start], '\n')
		if at < 0 {
			start = -1
			break
		}
		start = at
	}
	text := string(t.text[start+1:])
	t.mu.Unlock()
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.ToValidUTF8(strings.TrimRight(line, "\r\n"), "\uFFFD"))
	}
	return lines
}

// lines cuts one stream into lines for the tail. A line that is too long loses its end.
type lines struct {
	to      *tail
	partial []byte // the line that is not finished
}

func (l *lines) write(data []byte) {
	for len(data) > 0 {
		// The last end of a line within the longest line's length: everything before it is short
		// enough as it is.
		window := data[:min(len(data), longestLine-min(len(l.partial), longestLine))]
		if at := bytes.LastIndexByte(window, '\n'); at >= 0 {
			l.to.append(append(l.partial, window[:at+1]...))
			l.partial, data = nil, data[at+1:]
			continue
		}
		l.partial = append(l.partial, window...)
		data = data[len(window):]
		if len(l.partial) < longestLine {
			return
		}
		at := bytes.IndexByte(data, '\n') // the rest of the line is left out
		if at < 0 {
			return
		}
		l.end()
		data = data[at+1:]
	}
}

// end finishes a line that the stream did not.
func (l *lines) end() {
	if len(l.partial) > 0 {
		l.to.append(append(l.partial, '\n'))
		l.partial = nil
	}
}
