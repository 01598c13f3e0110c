package agent

import (
	"crypto/sha256"
	"hash"
	"math"
	"slices"
	"sync"
	"sync/atomic"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

const (
	largestChunk = 32 << 10
	// smallestChunk is also a quarter of the smallest ring.
	smallestChunk = 4 << 10
	mostRing      = 16 << 20
	mostSpill     = 1 << 40
	firstGrowth   = 512
	// mostShifted is how many chunks leave memory at once.
	mostShifted = 8
)

// ring keeps the newest bytes of one output stream: the newest of them in memory, older ones in a
// file, the oldest are dropped. Bytes have offsets from the start of the stream.
//
// A lossless ring refuses bytes instead of dropping some that a reader has not had. Bytes that
// were handed to a reader may still be on their way when its connection breaks, so the last
// quarter before its place stays too. While nobody reads, the last reader's place counts.
type ring struct {
	notifier *notifier     // told when there is something new to read
	memory   *atomic.Int64 // bytes held by all rings of the agent
	lossless bool

	room notifier // told when a lossless ring may take more

	hashing sync.Mutex // held before mu: guards sum, which covers everything before end

	mu        sync.Mutex
	chunk     uint64
	limit     uint64 // of memory
	chunks    [][]byte
	spare     [][]byte // chunks that left memory, for the next ones
	held      int64    // what chunks take in memory
	file      spill
	first     uint64 // offset of the oldest byte; always at a chunk's start
	memFirst  uint64 // offset of the oldest byte in memory
	end       uint64 // offset of the next byte
	readers   []*cursor
	floor     uint64 // lossless: everything before it has been read
	sum       hash.Hash
	abandoned bool // nobody will read any more: bytes are only counted
	cut       bool // bytes are only counted from keptEnd on
	keptEnd   uint64
}

// ringLimits are sizes in bytes as asked for.
type ringLimits struct {
	memory, spill uint64
	dir           string
}

func newRing(limits ringLimits, lossless bool, notifier *notifier, memory *atomic.Int64) *ring {
	limit := min(max(limits.memory, 4*smallestChunk), mostRing)
	chunk := uint64(largestChunk)
	for 4*chunk > limit {
		chunk /= 2
	}
	return &ring{
		notifier: notifier, memory: memory, lossless: lossless, chunk: chunk, limit: limit, sum: sha256.New(),
		file: spill{dir: limits.dir, size: min(limits.spill, mostSpill) / chunk * chunk},
	}
}

// write takes as much of data as may be kept and tells how much that was. Only a lossless ring
// takes less than all; try again when room rings.
func (r *ring) write(data []byte) int {
	r.hashing.Lock()
	defer r.hashing.Unlock()
	taken := r.take(data)
	if taken > 0 {
		r.notifier.broadcast()
		r.sum.Write(data[:taken])
	}
	return taken
}

func (r *ring) take(data []byte) (taken int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for taken < len(data) {
		if r.abandoned || r.cut {
			r.end += uint64(len(data) - taken)
			if r.abandoned {
				r.first, r.memFirst = r.end, r.end
			}
			return len(data)
		}
		n := r.append(data[taken:])
		if n == 0 {
			break
		}
		taken += n
	}
	return taken
}

// append puts bytes into the last chunk, or starts one.
func (r *ring) append(data []byte) int {
	within := r.end % r.chunk
	if within == 0 {
		for r.full() {
			if !r.shift() {
				return 0
			}
		}
		r.chunks = append(r.chunks, r.reused())
	}
	last := &r.chunks[len(r.chunks)-1]
	n := min(len(data), int(r.chunk-within))
	r.grow(last, n)
	*last = append(*last, data[:n]...)
	r.end += uint64(n)
	return n
}

// grow makes room for n more bytes, so that a short output takes little.
func (r *ring) grow(chunk *[]byte, n int) {
	need := len(*chunk) + n
	if need <= cap(*chunk) {
		return
	}
	size := max(cap(*chunk), firstGrowth)
	for size < need {
		size *= 2
	}
	size = min(size, int(r.chunk))
	r.account(int64(size - cap(*chunk)))
	*chunk = append(make([]byte, 0, size), *chunk...)
}

func (r *ring) account(bytes int64) {
	r.held += bytes
	r.memory.Add(bytes)
}

// full tells whether a new chunk needs an old one to leave memory.
func (r *ring) full() bool {
	n := uint64(len(r.chunks))
	return (n+1)*r.chunk > r.limit || n >= 2 && r.memory.Load() > ringMemory
}

// shift moves the oldest chunks out of memory: to the file, or away. It refuses when bytes would be
// lost that must not.
func (r *ring) shift() bool {
	n := r.makeRoom()
	if n == 0 {
		return false
	}
	written, err := r.file.write(r.memFirst, r.chunks[:n])
	for range written {
		r.forget()
	}
	if err != nil && written == 0 { // no file, or the disk is full
		next := r.memFirst + r.chunk
		if !r.mayDrop(next, r.inMemory()) {
			return false
		}
		r.file.drop()
		r.first = next
		r.forget()
	}
	return true
}

// makeRoom gives the number of chunks that the file has room for, or makes it by dropping the
// oldest. Without a file it is one. Several go in one write: each is a slow system call here.
func (r *ring) makeRoom() int {
	if r.file.size == 0 {
		return 1
	}
	most := max(1, min(mostShifted, int(r.limit/r.chunk)/4, len(r.chunks)-1)) //nolint:gosec // at most 4,096
	most = r.file.upToEnd(r.memFirst, r.chunk, most)
	for n := range most {
		next := r.memFirst + uint64(n+1)*r.chunk //nolint:gosec // n is small
		if next-r.first <= r.file.size {
			continue
		}
		if !r.mayDrop(r.first+r.chunk, r.limit+r.file.size) {
			return n
		}
		r.first += r.chunk
	}
	return most
}

// reused gives an empty chunk.
func (r *ring) reused() []byte {
	n := len(r.spare)
	if n == 0 {
		return nil
	}
	chunk := r.spare[n-1]
	r.spare[n-1], r.spare = nil, r.spare[:n-1]
	return chunk[:0]
}

// dropSpare gives chunks that are not in use back.
func (r *ring) dropSpare() {
	for _, chunk := range r.spare {
		r.account(-int64(cap(chunk)))
	}
	r.spare = nil
}

// forget takes the oldest chunk out of memory.
func (r *ring) forget() {
	old := r.chunks[0]
	r.memFirst += uint64(len(old))
	r.chunks[0] = nil
	r.chunks = r.chunks[1:]
	if cap(old) == int(r.chunk) && (len(r.spare) == 0 || r.memory.Load() <= ringMemory) {
		r.spare = append(r.spare, old)
		return
	}
	r.account(-int64(cap(old)))
}

// inMemory is the room that there is in memory now: less than the limit where all rings together
// hold too much.
func (r *ring) inMemory() uint64 { return min(r.limit, uint64(len(r.chunks))*r.chunk) }

// mayDrop tells whether everything before offset may go, when there is room for so many bytes.
func (r *ring) mayDrop(offset, room uint64) bool {
	return !r.lossless || offset+room/4 <= r.floor
}

// read copies bytes from offset on and tells where they begin: later than offset when the ones
// between are gone. It gives nothing at the end of the stream.
func (r *ring) read(offset uint64, buf []byte) (n int, from uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if offset < r.first {
		return 0, r.first
	}
	if r.cut && offset >= r.keptEnd {
		return 0, r.end
	}
	if offset < r.memFirst {
		n, err := r.file.read(offset, buf[:min(uint64(len(buf)), r.memFirst-offset)])
		if n == 0 && err != nil {
			r.first = r.memFirst
			return 0, r.first
		}
		return n, offset
	}
	end := r.end
	if r.cut {
		end = r.keptEnd
	}
	for at := offset; n < len(buf) && at < end; at = offset + uint64(n) {
		chunk := r.chunks[(at-r.memFirst)/r.chunk]
		n += copy(buf[n:], chunk[at%r.chunk:])
	}
	return n, offset
}

// extent gives the offset of the oldest byte, that of the next one, and the SHA-256 of all that
// was written.
func (r *ring) extent() (first, end uint64, sum []byte) {
	r.hashing.Lock()
	defer r.hashing.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.first, r.end, r.sum.Sum(nil)
}

// state is what lists show of the stream.
func (r *ring) state() *guestv1.StreamState {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &guestv1.StreamState{Bytes: r.end, First: r.first}
}

// cutOff keeps what there is and from now on counts only: readers get a gap for the rest.
func (r *ring) cutOff() {
	r.mu.Lock()
	if !r.cut {
		r.cut, r.keptEnd = true, r.end
	}
	r.mu.Unlock()
	r.room.broadcast()
}

// hasReaders tells whether anybody is attached.
func (r *ring) hasReaders() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.readers) > 0
}

// behind tells where the slowest reader of a lossless ring is, and whether it is so far behind that
// n more bytes would drive what it has not had out of memory.
func (r *ring) behind(n uint64) (at uint64, behind bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.lossless || len(r.readers) == 0 || r.cut || r.abandoned {
		return 0, false
	}
	room := r.limit
	if r.memory.Load() > ringMemory {
		room = 2 * r.chunk
	}
	return r.floor, r.floor < r.end && r.end+n-r.floor > room-room/4
}

// sizes gives what the ring takes in memory and on disk.
func (r *ring) sizes() (memory, disk int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.file.file != nil {
		disk = int64(r.memFirst - r.first)
	}
	return r.held, disk
}

// trim gives back what an ended stream does not need.
func (r *ring) trim() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropSpare()
	if n := len(r.chunks); n > 0 {
		last := r.chunks[n-1]
		r.account(int64(len(last) - cap(last)))
		r.chunks[n-1] = append(make([]byte, 0, len(last)), last...)
	}
}

// flush moves the stream of an ended process out of memory, unread bytes too: what does not fit on
// disk is gone. Of a stream that is still written to, or has no file, the newest chunk stays.
func (r *ring) flush(ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.chunks) > 1 || ended && len(r.chunks) > 0 {
		next := r.memFirst + uint64(len(r.chunks[0]))
		if r.file.size > 0 && next-r.first > r.file.size {
			r.first += r.chunk
		}
		if _, err := r.file.write(r.memFirst, r.chunks[:1]); err != nil {
			if len(r.chunks) == 1 {
				return
			}
			r.file.drop()
			r.first = next
		}
		r.forget()
		r.dropSpare()
	}
}

// discard drops everything of a stream that nobody writes to any more.
func (r *ring) discard(ended bool) {
	if !ended {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.account(-r.held)
	r.chunks, r.spare = nil, nil
	r.file.drop()
	r.first, r.memFirst, r.keptEnd = r.end, r.end, r.end
}

// removeSpill drops what is on disk, unread bytes too.
func (r *ring) removeSpill() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.file.drop()
	r.first = r.memFirst
}

// abandon drops everything and from now on counts only.
func (r *ring) abandon() {
	r.mu.Lock()
	r.account(-r.held)
	r.chunks, r.spare = nil, nil
	r.file.drop()
	r.first, r.memFirst = r.end, r.end
	r.abandoned = true
	r.mu.Unlock()
	r.room.broadcast()
	r.notifier.broadcast()
}

// cursor is one reader's place in a ring.
type cursor struct {
	ring *ring
	pos  uint64
}

// attach adds a reader at offset; false: nothing that far was ever written.
func (r *ring) attach(offset uint64) (*cursor, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if offset > r.end {
		return nil, false
	}
	c := &cursor{r, offset}
	r.readers = append(r.readers, c)
	r.lower()
	return c, true
}

// next copies what comes next, not beyond limit, and moves on. gap bytes before it are gone.
func (c *cursor) next(buf []byte, limit uint64) (n int, offset, gap uint64) {
	if c.pos >= limit {
		return 0, c.pos, 0
	}
	buf = buf[:min(uint64(len(buf)), limit-c.pos)]
	n, from := c.ring.read(c.pos, buf)
	from = min(from, limit)
	offset, gap = c.pos, from-c.pos
	c.moveTo(from + uint64(n))
	return n, offset, gap
}

func (c *cursor) moveTo(pos uint64) {
	r := c.ring
	r.mu.Lock()
	c.pos = pos
	r.lower()
	r.mu.Unlock()
	if r.lossless {
		r.room.broadcast()
	}
}

// detach removes a reader.
func (c *cursor) detach() {
	r := c.ring
	r.mu.Lock()
	r.lower()
	r.readers = slices.DeleteFunc(r.readers, func(other *cursor) bool { return other == c })
	r.lower()
	r.mu.Unlock()
	r.room.broadcast()
}

// lower sets the floor to the slowest reader's place.
func (r *ring) lower() {
	if len(r.readers) == 0 {
		return
	}
	floor := uint64(math.MaxUint64)
	for _, reader := range r.readers {
		floor = min(floor, reader.pos)
	}
	r.floor = floor
}
