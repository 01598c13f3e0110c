package image

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	// An archive may grow to bombRatio times its size and bombSlack more: text and zeros in real
	// images stay far below.
	bombRatio = 100
	bombSlack = 256 << 20
	// maxWindow bounds the memory that a zstd stream can ask for.
	maxWindow = 32 << 20
)

// meter counts and bounds what one import reads and writes. After the first failure it only
// repeats it.
type meter struct {
	ctx      context.Context
	limits   Limits
	progress func(done int64)
	in       int64 // bytes of the source
	stream   int64 // bytes that came out of decompression
	content  int64 // bytes of files, holes included
	entries  int
	left     LeftOut
	err      error
}

// entry counts one more file, directory or link.
func (m *meter) entry() error {
	if m.entries++; m.entries > m.limits.Entries {
		return m.fail(stacyvm.Errorf(stacyvm.CodeTooLarge, "the image has more than %d files", m.limits.Entries))
	}
	return m.check(m.stream)
}

// grow counts content before it is written.
func (m *meter) grow(n int64) error {
	if n > m.limits.Bytes-m.content {
		return m.fail(
			stacyvm.Errorf(
				stacyvm.CodeTooLarge,
				"the image's files are larger than %d MiB together",
				m.limits.Bytes>>20,
			),
		)
	}
	m.content += n
	return m.check(m.content)
}

func (m *meter) check(out int64) error {
	if m.err != nil {
		return m.err
	}
	if err := m.ctx.Err(); err != nil {
		return m.fail(err)
	}
	if out > bombSlack && (out-bombSlack)/bombRatio > m.in {
		return m.fail(
			stacyvm.Errorf(stacyvm.CodeTooLarge, "the archive grows to more than %d times its size", bombRatio),
		)
	}
	return nil
}

func (m *meter) fail(err error) error {
	if m.err == nil {
		m.err = err
	}
	return m.err
}

// source counts what is read from r as bytes of the source.
func (m *meter) source(r io.Reader) io.Reader {
	return readerFunc(func(buffer []byte) (int, error) {
		if err := m.check(0); err != nil {
			return 0, err
		}
		n, err := r.Read(buffer)
		m.in += int64(n)
		if m.progress != nil && n > 0 {
			m.progress(m.in)
		}
		return n, err
	})
}

// output counts what is read from r as decompressed.
func (m *meter) output(r io.Reader) io.Reader {
	return readerFunc(func(buffer []byte) (int, error) {
		n, err := r.Read(buffer)
		m.stream += int64(n)
		if failed := m.check(m.stream); failed != nil {
			return 0, failed
		}
		return n, err
	})
}

const (
	// mostNamed is how many entries that were left out are named; the others are counted.
	mostNamed = 10
)

func (l *LeftOut) add(name, why string) {
	if l.Count++; len(l.Names) < mostNamed {
		l.Names = append(l.Names, shown(name)+" ("+why+")")
	}
}

type readerFunc func(buffer []byte) (int, error)

func (f readerFunc) Read(buffer []byte) (int, error) { return f(buffer) }

// decompress finds out from its first bytes how r is packed. Close ends the decompressor, not r.
func decompress(r io.Reader) (io.ReadCloser, error) {
	buffered := bufio.NewReaderSize(r, 64<<10)
	magic, err := buffered.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(buffered)
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}),
		len(magic) > 3 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:4], []byte{0x2a, 0x4d, 0x18}):
		decoder, err := zstd.NewReader(
			buffered,
			zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderLowmem(true),
			zstd.WithDecoderMaxWindow(maxWindow),
		)
		if err != nil {
			return nil, err
		}
		return decoder.IOReadCloser(), nil
	case bytes.HasPrefix(magic, []byte("BZh")):
		return io.NopCloser(bzip2.NewReader(buffered)), nil
	case bytes.HasPrefix(magic, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		return nil, stacyvm.Invalid("source", "xz archives cannot be read: unpack it with `xz -d` first")
	}
	return io.NopCloser(buffered), nil
}
