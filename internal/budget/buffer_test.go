package budget_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/stacyvm/stacyvm/internal/budget"
)

func TestBuffer(t *testing.T) {
	var want []byte
	var b budget.Buffer
	for i := range 3000 {
		piece := bytes.Repeat([]byte{byte(i)}, i%211)
		want = append(want, piece...)
		if n, err := b.Write(piece); n != len(piece) || err != nil {
			t.Fatalf("write of %d bytes: %d %v", len(piece), n, err)
		}
	}
	got, err := io.ReadAll(b.Reader())
	if err != nil || !bytes.Equal(got, want) || b.Len() != len(want) || !bytes.Equal(bytes.Join(b.Pieces(), nil), want) {
		t.Errorf("%d of %d bytes came back: %v", len(got), len(want), err)
	}
}

func TestBufferStopsAtTheBudget(t *testing.T) {
	a := budget.New(256 << 10).Open("me")
	b := budget.NewBuffer(a)
	n, err := io.Copy(&b, bytes.NewReader(make([]byte, 1<<20)))
	if !errors.Is(err, budget.ErrFull) || n > 128<<10+budget.Small {
		t.Errorf("%d bytes were taken: %v", n, err)
	}
}
