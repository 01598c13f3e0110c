package api

import (
	"encoding/json"
	"math/rand/v2"
	"testing"
)

// TestFramesAreWrittenAsEncodingJSONWritesThem compares random frames: texts of all kinds of
// characters, and of bytes that are no text.
func TestFramesAreWrittenAsEncodingJSONWritesThem(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 3))
	pieces := []string{"a", "word ", "\"", "\\", "\n", "\r", "\t", "\b", "\f", "\x00", "\x1f", "\x7f", "<", ">", "&", "/",
		"é", "漢", "😀", "\u2028", "\u2029", "\u202a", "\ufffd", "\xff", "\xc3", "\xe2\x80"}
	text := func() (s string) {
		for range random.IntN(12) {
			s += pieces[random.IntN(len(pieces))]
		}
		return s
	}
	for range 20_000 {
		frame := Frame{Type: text(), Stream: text(), Code: text(), Error: text()}
		if random.IntN(2) == 0 {
			frame.Data = new(text())
		}
		if random.IntN(2) == 0 {
			frame.Offset = new(random.Uint64())
		}
		if random.IntN(2) == 0 {
			frame.DataBase64 = []byte(text())
		}
		if random.IntN(2) == 0 {
			frame.Gap = random.Uint64()
		}
		want, err := json.Marshal(frame)
		if err != nil {
			t.Fatal(err)
		}
		if got := frame.AppendJSON(nil); string(got) != string(want) {
			t.Fatalf("%+v:\ngot  %s\nwant %s", frame, got, want)
		}
	}
}
