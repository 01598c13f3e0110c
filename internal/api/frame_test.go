package api

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

func data(stream stacyvm.Stream, offset int, text []byte) stacyvm.OutputEvent {
	return stacyvm.OutputEvent{Stream: stream, Offset: uint64(offset), Data: text}
}

// TestTextFramesCutNoCharacter feeds text in random pieces: every frame is valid, together they
// are the text.
func TestTextFramesCutNoCharacter(t *testing.T) {
	const text = "aé€😀\u0000ß漢字🏳️‍🌈z"
	random := rand.New(rand.NewPCG(7, 7))
	for range 2000 {
		whole := []byte(strings.Repeat(text, 3))
		f := newFramer(false, true)
		var got strings.Builder
		take := func(frames []Frame) {
			for _, frame := range frames {
				if !utf8.ValidString(*frame.Data) {
					t.Fatalf("frame %q", *frame.Data)
				}
				if frame.Offset != nil && *frame.Offset != uint64(got.Len()) {
					t.Fatalf("offset %d after %d bytes", *frame.Offset, got.Len())
				}
				got.WriteString(*frame.Data)
			}
		}
		for at := 0; at < len(whole); {
			n := min(1+random.IntN(5), len(whole)-at)
			piece := bytes.Clone(whole[at : at+n])
			take(f.frames(data(stacyvm.Stdout, at, piece)))
			clear(piece) // the event's data is good until the next one only
			at += n
		}
		take(f.end())
		if got.String() != string(whole) {
			t.Fatalf("got %q", got.String())
		}
	}
}

func TestTextFramesOfBytesThatAreNoText(t *testing.T) {
	random := rand.New(rand.NewPCG(8, 8))
	for range 5000 {
		f := newFramer(false, false)
		for at := 0; at < 20; {
			piece := make([]byte, 1+random.IntN(6))
			for i := range piece {
				piece[i] = byte(random.Uint32())
			}
			for _, frame := range f.frames(data(stacyvm.Stdout, at, piece)) {
				if !utf8.ValidString(*frame.Data) {
					t.Fatalf("frame %q", *frame.Data)
				}
			}
			if kept := len(f.tails[stacyvm.Stdout].bytes); kept >= utf8.UTFMax {
				t.Fatalf("%d bytes kept back", kept)
			}
			at += len(piece)
		}
	}
}

func TestStreamsAndGapsKeepApart(t *testing.T) {
	f := newFramer(false, false)
	var got []string
	take := func(frames []Frame) {
		for _, frame := range frames {
			got = append(got, frame.Stream+" "+*frame.Data)
		}
	}
	take(f.frames(data(stacyvm.Stdout, 0, []byte("a\xe2\x82"))))
	take(f.frames(data(stacyvm.Stderr, 0, []byte("\xc3"))))
	take(f.frames(data(stacyvm.Stderr, 1, []byte("\xa9"))))
	take(f.frames(stacyvm.OutputEvent{Stream: stacyvm.Stdout, Offset: 3, Gap: 10}))
	take(f.frames(data(stacyvm.Stdout, 13, []byte("\xac"))))
	take(f.end())
	want := []string{"stdout a", "stderr é", "stdout \uFFFD", "stdout ", "stdout \uFFFD"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestBinaryFramesAreTheBytes(t *testing.T) {
	f := newFramer(true, true)
	frames := f.frames(data(stacyvm.Stderr, 5, []byte{0xff, 0, 0xc3}))
	if len(frames) != 1 || !bytes.Equal(frames[0].DataBase64, []byte{0xff, 0, 0xc3}) || *frames[0].Offset != 5 || frames[0].Data != nil {
		t.Errorf("frames %+v", frames)
	}
	if rest := f.end(); len(rest) != 0 {
		t.Errorf("rest %+v", rest)
	}
}
