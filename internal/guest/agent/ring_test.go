package agent

import (
	"bytes"
	"math"
	"sync/atomic"
	"testing"

	"pgregory.net/rapid"
)

// TestRing compares rings of all sizes with the whole stream, under writers, readers and readers
// that come back.
func TestRing(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		var memory atomic.Int64
		limits := ringLimits{
			memory: rapid.Uint64Range(1, 600<<10).Draw(t, "memory"), spill: rapid.Uint64Range(1, 800<<10).Draw(t, "spill"), dir: dir,
		}
		lossless := rapid.Bool().Draw(t, "lossless")
		r := newRing(limits, lossless, new(notifier), &memory)
		defer r.abandon()
		var all []byte
		reader, _ := r.attach(0)
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				data := bytes.Repeat([]byte{byte(len(all)), byte(len(all) >> 8), byte(len(all) >> 16)}, rapid.IntRange(1, 90<<10).Draw(t, "n"))
				n := r.write(data)
				all = append(all, data[:n]...)
				if n < len(data) && (!lossless || reader.pos == uint64(len(all)) && n == 0) {
					t.Fatalf("took %d of %d bytes; the reader is at %d of %d", n, len(data), reader.pos, len(all))
				}
			},
			"read": func(t *rapid.T) {
				buf := make([]byte, rapid.IntRange(1, frameSize).Draw(t, "n"))
				before := reader.pos
				n, offset, gap := reader.next(buf, uint64(len(all)))
				if gap > 0 && (lossless || n > 0) {
					t.Fatalf("gap of %d and %d bytes at %d, lossless %v", gap, n, offset, lossless)
				}
				if n == 0 && gap == 0 && before < uint64(len(all)) {
					t.Fatalf("nothing at %d of %d", before, len(all))
				}
				if !bytes.Equal(buf[:n], all[offset:offset+uint64(n)]) {
					t.Fatalf("%d bytes at %d differ", n, offset)
				}
			},
			"come back": func(t *rapid.T) {
				first, _, _ := r.extent()
				from := rapid.Uint64Range(min(first, reader.pos), reader.pos).Draw(t, "from")
				reader.detach()
				reader, _ = r.attach(from)
			},
			"": func(t *rapid.T) {
				first, end, _ := r.extent()
				held, disk := r.sizes()
				if end != uint64(len(all)) || first > end || held != memory.Load() {
					t.Fatalf("holds %d to %d of %d, %d bytes, %d accounted", first, end, len(all), held, memory.Load())
				}
				if uint64(held) > r.limit+r.chunk || uint64(disk) > r.file.size {
					t.Fatalf("holds %d bytes in memory and %d on disk, limits %d and %d", held, disk, r.limit, r.file.size)
				}
			},
		})
		r.trim()
		r.flush(true)
		first, end, _ := r.extent()
		again, _ := r.attach(first)
		for buf := make([]byte, frameSize); again.pos < end; {
			n, offset, gap := again.next(buf, math.MaxUint64)
			if n == 0 || gap > 0 || !bytes.Equal(buf[:n], all[offset:offset+uint64(n)]) {
				t.Fatalf("after the end: %d bytes at %d, gap %d", n, offset, gap)
			}
		}
	})
}

// TestRingMemoryIsShared has many streams at once: each keeps little in memory then, and loses
// nothing.
func TestRingMemoryIsShared(t *testing.T) {
	var memory atomic.Int64
	memory.Store(ringMemory)
	r := newRing(ringLimits{memory: 1 << 20, spill: 1 << 20, dir: t.TempDir()}, false, new(notifier), &memory)
	defer r.abandon()
	r.write(make([]byte, 1<<20))
	if held, _ := r.sizes(); held > 3*largestChunk {
		t.Errorf("holds %d bytes in memory", held)
	}
	if first, end, _ := r.extent(); first != 0 || end != 1<<20 {
		t.Errorf("holds %d to %d", first, end)
	}
}

// TestRingWithoutRoom: no disk, and the others hold all the memory. A lossless stream whose reader
// keeps up goes on.
func TestRingWithoutRoom(t *testing.T) {
	var memory atomic.Int64
	memory.Store(2 * ringMemory)
	r := newRing(ringLimits{memory: 1 << 20}, true, new(notifier), &memory)
	defer r.abandon()
	reader, _ := r.attach(0)
	buf := make([]byte, frameSize)
	for sent, stalled := 0, 0; sent < 1<<20; {
		n := r.write(buf[:min(len(buf), 1<<20-sent)])
		sent += n
		if n == 0 {
			stalled++
		}
		for got := 1; got > 0; {
			var gap uint64
			if got, _, gap = reader.next(buf, math.MaxUint64); gap > 0 {
				t.Fatalf("lost %d bytes", gap)
			}
		}
		if stalled > 100 {
			t.Fatalf("takes no more than %d bytes", sent)
		}
	}
}

// TestRingWithASmallFile: the file is always full of what left memory last, also one that holds less
// than leaves memory at once, or no multiple of it.
func TestRingWithASmallFile(t *testing.T) {
	for _, held := range []uint64{1, 2, 3, 4, 7, 8, 9, 30} {
		for _, lossless := range []bool{false, true} {
			var memory atomic.Int64
			r := newRing(ringLimits{memory: 1 << 20, spill: held * largestChunk, dir: t.TempDir()}, lossless, new(notifier), &memory)
			reader, _ := r.attach(0)
			buf := make([]byte, largestChunk)
			for range 200 {
				if n := r.write(buf); n != len(buf) {
					t.Fatalf("%d chunks on disk, lossless %v: took %d bytes at %d", held, lossless, n, r.end)
				}
				reader.moveTo(r.end)
				_, disk := r.sizes()
				if want := min(r.memFirst, r.file.size); r.file.file != nil && disk != int64(want) {
					t.Fatalf("%d chunks on disk, lossless %v: holds %d to %d, of that %d bytes on disk and not %d",
						held, lossless, r.first, r.end, disk, want)
				}
			}
			r.abandon()
		}
	}
}
