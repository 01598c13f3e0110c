package agent

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"connectrpc.com/connect"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

func (h *host) lines(t *testing.T, n uint32) []string {
	t.Helper()
	response, err := h.logs.Tail(t.Context(), connect.NewRequest(&guestv1.TailRequest{Lines: n}))
	if err != nil {
		t.Fatal(err)
	}
	return response.Msg.Lines
}

func TestTail(t *testing.T) {
	h := newHost(t)
	if got := h.lines(t, 0); len(got) != 0 {
		t.Errorf("got %q", got)
	}
	h.sh(t, "echo one; printf unfinished")
	h.sh(t, `printf 'bad \377 byte\r\n' >&2; echo; echo last`)
	want := []string{"one", "unfinished", "bad \uFFFD byte", "", "last"}
	got := h.lines(t, 0)
	slices.Sort(got[2:]) // two streams of one process come in any order
	slices.Sort(want[2:])
	if !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if got := h.lines(t, 2); len(got) != 2 {
		t.Errorf("got %q", got)
	}
	h.sh(t, "seq 20000")
	if got := h.lines(t, 1<<31); len(got) != mostLines || got[0] != "10001" || got[mostLines-1] != "20000" {
		t.Errorf("%d lines from %q", len(got), got[0])
	}
	if got := h.lines(t, 0); len(got) != defaultLines || got[0] != "19901" {
		t.Errorf("%d lines from %q", len(got), got[0])
	}
}

// TestLineCutting writes in pieces of all sizes: the lines are the same.
func TestLineCutting(t *testing.T) {
	long := strings.Repeat("é", longestLine)
	text := "a\n\n" + long + "\nb\r\n" + strings.Repeat("x", longestLine-1) + "\n" + strings.Repeat("y", longestLine) + "\n" + long + "end"
	want := []string{"a", "", long[:longestLine], "b", strings.Repeat("x", longestLine-1), strings.Repeat("y", longestLine), long[:longestLine]}
	for _, piece := range []int{1, 2, 3, 1000, longestLine - 1, longestLine, longestLine + 1, len(text)} {
		var all tail
		l := lines{to: &all}
		for rest := []byte(text); len(rest) > 0; {
			n := min(piece, len(rest))
			l.write(rest[:n])
			rest = rest[n:]
		}
		l.end()
		if got := all.last(100); !slices.Equal(got, want) {
			t.Errorf("pieces of %d: %d lines differ", piece, len(got))
		}
	}
}

func TestTailIsBounded(t *testing.T) {
	var all tail
	l := lines{to: &all}
	for i := range 20_000 {
		l.write(fmt.Appendf(nil, "%d %s\n", i, strings.Repeat("z", i%300)))
	}
	got := all.last(mostLines)
	if len(all.text) > tailMemory || cap(all.text) > 2*tailMemory {
		t.Errorf("holds %d bytes of %d", len(all.text), cap(all.text))
	}
	for i, line := range got {
		if want := 20_000 - len(got) + i; !strings.HasPrefix(line, fmt.Sprintf("%d ", want)) || !utf8.ValidString(line) {
			t.Fatalf("line %d is %q", want, line)
		}
	}
	if len(got) < 3000 {
		t.Errorf("only %d lines", len(got))
	}
}
