package local

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"strconv"
	"sync"
	"syscall"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

const (
	logName = "journal.log"
	// idBytes is the length of a sandbox's id, and headBytes that of what stands before a line's
	// content: the id, a checksum and two spaces.
	idBytes   = len("sb-") + 24
	headBytes = idBytes + len(" 01234567 ")
)

var checksums = crc32.MakeTable(crc32.Castagnoli)

// lineOf is a line of the log: whose it is, a checksum of both, and the content, which is JSON.
func lineOf(id stacyvm.SandboxID, content []byte) []byte {
	return fmt.Appendf(nil, "%s %08x %s\n", id, checksum(id, content), content)
}

func checksum(id stacyvm.SandboxID, content []byte) uint32 {
	return crc32.Update(crc32.Checksum([]byte(id), checksums), checksums, content)
}

// parseLine takes a line apart, without its end. An error with an id is damage to what is kept of
// that sandbox; without one it is not known whose line it was.
func parseLine(line []byte) (id stacyvm.SandboxID, content []byte, err error) {
	if len(line) < idBytes || !stacyvm.SandboxID(line[:idBytes]).Valid() {
		return "", nil, errors.New("a line of nobody")
	}
	id = stacyvm.SandboxID(line[:idBytes])
	if len(line) < headBytes {
		return id, nil, errors.New("a line was cut")
	}
	content = line[headBytes:]
	sum, err := strconv.ParseUint(string(line[idBytes+1:headBytes-1]), 16, 32)
	if err != nil || uint32(sum) != checksum(id, content) {
		return id, nil, errors.New("a line's checksum is wrong")
	}
	return id, content, nil
}

// span is a line's place in the log.
type span struct {
	at     int64
	length int
}

// lineLog is a file to which lines are appended. Those who append at the same time share a sync.
type lineLog struct {
	root  *os.Root
	dir   *os.File             // for syncing
	flush func(*os.File) error // syncs; a test takes its place

	mu      sync.Mutex
	turn    *sync.Cond // on mu: a sync has ended
	file    *os.File
	size    int64    // of the lines
	next    *flushed // of the lines that no sync has begun for
	syncing bool
	failed  error // of the last sync; the file is not relied on any more until it is written anew
}

// flushed is one sync; the log's mu guards it.
type flushed struct {
	over bool
	err  error
}

// openLog opens the log, made when missing. each must follow.
func openLog(root *os.Root, dir *os.File) (*lineLog, error) {
	file, err := root.OpenFile(logName, os.O_RDWR|os.O_CREATE|syscall.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, unreadable(err)
	}
	if about, err := file.Stat(); err != nil || !about.Mode().IsRegular() {
		return nil, errors.Join(unreadable(cmp.Or(err, errors.New(logName+" is no regular file"))), file.Close())
	}
	l := &lineLog{root: root, dir: dir, file: file, flush: flush, next: new(flushed)}
	l.turn = sync.NewCond(&l.mu)
	if err := dir.Sync(); err != nil {
		return nil, errors.Join(unwritten(err), file.Close())
	}
	return l, nil
}

func (l *lineLog) close() error { return l.file.Close() }

// each gives every line, and leaves the log ready to be appended to. A last line without an end was
// not finished when its writer ended: it is taken away.
func (l *lineLog) each(do func(line []byte, at span)) error {
	end, err := eachLine(l.file, do)
	if err != nil {
		return err
	}
	l.size = end
	return l.file.Truncate(end)
}

// eachLine gives every line of a log that has an end, without that, and the place behind the last
// one. Of a line longer than maxLine it gives the id.
func eachLine(file io.Reader, do func(line []byte, at span)) (end int64, err error) {
	from := bufio.NewReaderSize(file, 64<<10)
	var line []byte
	length := 0
	for {
		part, err := from.ReadSlice('\n')
		length += len(part)
		if length <= maxLine {
			line = append(line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF):
			return end, nil
		case err != nil:
			return end, err
		}
		if length > maxLine {
			line = line[:min(len(line), idBytes)]
		}
		do(bytes.TrimSuffix(line, []byte("\n")), span{end, length})
		end += int64(length)
		line, length = line[:0], 0
	}
}

// append writes a line and gives the sync that it takes part in. note is called with its place
// before anybody else may write. After an error nothing of it is there.
func (l *lineLog) append(text []byte, note func(span)) (*flushed, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, err := l.file.WriteAt(text, l.size); err != nil {
		return nil, errors.Join(err, l.file.Truncate(l.size))
	}
	note(span{l.size, len(text)})
	l.size += int64(len(text))
	return l.next, nil
}

// sync returns when lines are on disk. One of those who wait syncs for all whose lines are written
// by then. After a sync that failed the system takes what it could not write for written, and the
// next sync of the file would succeed without it: so there is none.
func (l *lineLog) sync(lines *flushed) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !lines.over {
		if l.syncing {
			l.turn.Wait()
			continue
		}
		if l.failed != nil {
			return l.failed
		}
		l.syncing = true
		file, all := l.file, l.next
		l.next = new(flushed)
		l.mu.Unlock()
		err := l.flush(file)
		l.mu.Lock()
		l.syncing, l.failed, all.over, all.err = false, err, true, err
		l.turn.Broadcast()
	}
	return lines.err
}

// flush syncs a file that somebody will find again.
func flush(file *os.File) error {
	if err := file.Sync(); err != nil {
		return err
	}
	info, err := file.Stat()
	if err == nil && info.Sys().(*syscall.Stat_t).Nlink == 0 {
		err = errors.New("the journal's file was removed")
	}
	return err
}

// rewrite puts a new log in place of the present one; alone calls it. write fills it.
func (l *lineLog) rewrite(write func(old io.ReaderAt, into io.Writer) error) error {
	temporary := logName + tempSuffix
	file, err := l.root.OpenFile(temporary, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	into := bufio.NewWriterSize(file, 64<<10)
	if err = write(l.file, into); err == nil {
		err = into.Flush()
	}
	if err == nil {
		err = file.Sync()
	}
	size := int64(0)
	if err == nil {
		size, err = file.Seek(0, io.SeekCurrent)
	}
	if err == nil {
		err = l.root.Rename(temporary, logName)
	}
	if err != nil {
		return errors.Join(err, file.Close(), l.root.Remove(temporary))
	}
	l.size = size
	l.next.over, l.next.err = true, l.dir.Sync()
	l.turn.Broadcast()
	err = errors.Join(l.next.err, l.file.Close())
	l.file, l.failed, l.next = file, l.next.err, new(flushed)
	return err
}

// alone runs do while nobody writes or syncs.
func (l *lineLog) alone(do func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.syncing {
		l.turn.Wait()
	}
	return do()
}
