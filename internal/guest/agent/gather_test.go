package agent

import (
	"bytes"
	"os"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// TestMuchOutputComesWhole: programs that print much and little in turns, on both streams at once,
// and leave a child behind that goes on printing.
func TestMuchOutputComesWhole(t *testing.T) {
	h := newHost(t)
	data := h.random(t, 2<<20)
	const script = `for i in 1 2 3; do cat random; cat random >&2; echo little; sleep 0.01; echo little >&2; done
		(cat random; sleep 0.02; echo last) &`
	for _, lossless := range []bool{true, false} {
		r := h.run(t, &guestv1.StartRequest{Argv: shell(script), Lossless: lossless})
		want := bytes.Repeat(append(bytes.Clone(data), "little\n"...), 3)
		if !bytes.Equal(r.stderr, want) {
			t.Errorf("lossless %v: %d of %d bytes on stderr", lossless, len(r.stderr), len(want))
		}
		want = append(append(want, data...), "last\n"...)
		if !bytes.Equal(r.stdout, want) || len(r.gaps) != 0 {
			t.Errorf("lossless %v: %d of %d bytes on stdout, gaps %v", lossless, len(r.stdout), len(want), r.gaps)
		}
	}
}

// TestAStreamIsClosedWhileItIsRead: the program's end of the pipe breaks, whoever watches ours.
func TestAStreamIsClosedWhileItIsRead(t *testing.T) {
	theirs, ours, err := pipe(false)
	if err != nil {
		t.Fatal(err)
	}
	program := os.NewFile(uintptr(theirs), "theirs")
	defer program.Close()
	_, p := idle(t, "printing")
	p.stdout.file = ours
	p.stdout.lines.to = new(tail)
	stop := make(chan struct{})
	go p.stdout.pump(stop)
	for had := 0; had < 16*much; {
		n, err := program.Write(make([]byte, 64<<10))
		if err != nil {
			t.Fatal(err)
		}
		had += n
	}
	p.stdout.close()
	for err == nil {
		_, err = program.Write(make([]byte, 64<<10))
	}
	<-p.stdout.ended
}

// TestASlowReaderReadsFromMemory: a lossless program waits for a reader that reads on, and goes on
// without one that stands still, as far as the file has room.
func TestASlowReaderReadsFromMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var memory atomic.Int64
		r := newRing(ringLimits{memory: 256 << 10, spill: 8 << 20, dir: t.TempDir()}, true, new(notifier), &memory)
		defer r.abandon()
		s := newStream(r, new(tail))
		reader, _ := r.attach(0)
		done := make(chan struct{})
		go func() {
			defer close(done)
			for range 32 {
				s.keep(make([]byte, 64<<10), nil)
			}
		}()
		buffer := make([]byte, 64<<10)
		for range 16 { // slowly
			time.Sleep(readerTime / 2)
			synctest.Wait()
			if _, disk := r.sizes(); disk > 0 && reader.pos < r.memFirst {
				t.Fatalf("the reader is at %d, memory begins at %d", reader.pos, r.memFirst)
			}
			reader.next(buffer, 1<<40)
		}
		select {
		case <-done:
			t.Error("the program did not wait")
		default:
		}
		time.Sleep(2 * readerTime) // and no more
		synctest.Wait()
		select {
		case <-done:
		default:
			t.Error("the program waits for a reader that stands still")
		}
	})
}
