package budget

import (
	"bytes"
	"errors"
	"io"
)

// Sizes of a buffer's pieces, in bytes: a short text takes little, and no piece is ever copied to
// grow.
const (
	firstPiece = 1 << 10
	mostPiece  = 64 << 10
)

// ErrFull says that a buffer may not take the bytes: its account was refused them.
var ErrFull = errors.New("no room in the budget")

// Buffer collects bytes and counts them in an account. Each byte is held once. The zero value is
// ready, and uncounted.
type Buffer struct {
	account *Account
	pieces  [][]byte
	size    int
}

// NewBuffer makes a buffer whose bytes are counted in a; nil: they are not counted.
func NewBuffer(a *Account) Buffer { return Buffer{account: a} }

// Write implements io.Writer. ErrFull: not all of data was taken.
func (b *Buffer) Write(data []byte) (taken int, err error) {
	for taken < len(data) {
		if n := len(b.pieces); n == 0 || len(b.pieces[n-1]) == cap(b.pieces[n-1]) {
			size := min(max(firstPiece, b.size), mostPiece)
			if !b.account.Take(size) {
				return taken, ErrFull
			}
			b.pieces = append(b.pieces, make([]byte, 0, size))
		}
		last := &b.pieces[len(b.pieces)-1]
		n := min(len(data)-taken, cap(*last)-len(*last))
		*last = append(*last, data[taken:taken+n]...)
		taken += n
		b.size += n
	}
	return taken, nil
}

// Len is the number of bytes in the buffer.
func (b *Buffer) Len() int { return b.size }

// Pieces gives the bytes in order; they must not be changed.
func (b *Buffer) Pieces() [][]byte { return b.pieces }

// Reader reads the buffer from its first byte on.
func (b *Buffer) Reader() io.Reader {
	readers := make([]io.Reader, len(b.pieces))
	for i, piece := range b.pieces {
		readers[i] = bytes.NewReader(piece)
	}
	return io.MultiReader(readers...)
}
