package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/testneed"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// random puts a file of random bytes into the sandbox.
func (h *host) random(t *testing.T, size int) []byte {
	t.Helper()
	data := make([]byte, size)
	_, _ = rand.Read(data)
	if err := os.WriteFile(filepath.Join(h.root, "random"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	return data
}

// TestSlowReader reads 8 MiB through small windows with pauses, from a stream that spills.
func TestSlowReader(t *testing.T) {
	h := newHost(t)
	data := h.random(t, 8<<20)
	w := h.watch(t, &guestv1.StartRequest{Argv: []string{"cat", "random"}, Lossless: true})
	for i := 0; w.exit == nil; i++ {
		w.until(func() bool { return w.exit != nil || len(w.stdout) >= i<<19 })
		time.Sleep(5 * time.Millisecond) // a slow reader is what this is about
	}
	sum := sha256.Sum256(data)
	if !bytes.Equal(w.stdout, data) || len(w.gaps) != 0 || !bytes.Equal(w.exit.StdoutSha256, sum[:]) {
		t.Errorf("%d of %d bytes, gaps %v, exit %v", len(w.stdout), len(data), w.gaps, w.exit)
	}
}

func TestAttachAtOffsets(t *testing.T) {
	h := newHost(t)
	p := h.begin(t, &guestv1.StartRequest{Argv: shell("printf 0123456789; printf abcdef >&2")})
	for _, c := range []struct {
		out, err               uint64
		wantStdout, wantStderr string
	}{{0, 0, "0123456789", "abcdef"}, {4, 2, "456789", "cdef"}, {10, 6, "", ""}} {
		r := h.attach(t, &guestv1.AttachRequest{Id: p.Id, StdoutOffset: c.out, StderrOffset: c.err})
		if string(r.stdout) != c.wantStdout || string(r.stderr) != c.wantStderr || r.exit == nil || len(r.gaps) != 0 {
			t.Errorf("from %d, %d: %q, %q, %v", c.out, c.err, r.stdout, r.stderr, r.exit)
		}
	}
	for id, code := range map[string]connect.Code{p.Id: connect.CodeInvalidArgument, "nobody": connect.CodeNotFound} {
		stream, err := h.processes.Attach(t.Context(), connect.NewRequest(&guestv1.AttachRequest{Id: id, StdoutOffset: 11}))
		if err != nil {
			t.Fatal(err)
		}
		if stream.Receive() {
			t.Errorf("got %v", stream.Msg())
		}
		wantCode(t, stream.Err(), code)
		stream.Close()
	}
}

func TestAttachWithoutFollowing(t *testing.T) {
	h := newHost(t)
	w := h.watch(t, &guestv1.StartRequest{Argv: shell("echo some; cat"), Stdin: true})
	w.untilOutput("some\n")
	r := h.attach(t, &guestv1.AttachRequest{Id: w.id(), NoFollow: true})
	if string(r.stdout) != "some\n" || r.exit != nil {
		t.Errorf("got %q, %v", r.stdout, r.exit)
	}
	if _, err := h.input(t, w.id(), "", nil, true); err != nil {
		t.Fatal(err)
	}
	w.untilExit()
	if r := h.attach(t, &guestv1.AttachRequest{Id: w.id(), NoFollow: true}); r.exit == nil {
		t.Error("no exit of an ended process")
	}
}

// TestAttachAnswersAtOnce attaches to a process that says nothing.
func TestAttachAnswersAtOnce(t *testing.T) {
	h := newHost(t)
	p := h.begin(t, &guestv1.StartRequest{Argv: []string{"sleep", "1000"}})
	ctx, cancel := context.WithTimeout(t.Context(), keepalive/2)
	defer cancel()
	stream, err := h.processes.Attach(ctx, connect.NewRequest(&guestv1.AttachRequest{Id: p.Id}))
	if err != nil || !stream.Receive() || stream.Msg().GetKeepalive() == nil {
		t.Errorf("got %v, %v", err, stream.Err())
	}
	cancel()
	stream.Close()
}

// TestGap reads what is left of a stream that was dropped in part.
func TestGap(t *testing.T) {
	h := newHost(t)
	data := h.random(t, 1<<20)
	for _, limits := range []struct{ ring, spill uint64 }{{64 << 10, 1}, {64 << 10, 256 << 10}, {16 << 10, 128 << 10}} {
		p := h.begin(t, &guestv1.StartRequest{Argv: []string{"cat", "random"}, RingBytes: limits.ring, SpillBytes: limits.spill})
		if _, err := h.processes.Wait(t.Context(), connect.NewRequest(&guestv1.WaitRequest{Id: p.Id})); err != nil {
			t.Fatal(err)
		}
		r := h.attach(t, &guestv1.AttachRequest{Id: p.Id})
		if len(r.gaps) != 1 || r.gaps[0].Offset != 0 || r.gaps[0].Bytes+uint64(len(r.stdout)) != uint64(len(data)) {
			t.Fatalf("%v: gaps %v, then %d bytes", limits, r.gaps, len(r.stdout))
		}
		if !bytes.Equal(r.stdout, data[r.gaps[0].Bytes:]) {
			t.Errorf("%v: the rest differs", limits)
		}
		if kept := uint64(len(r.stdout)); kept > limits.ring+limits.spill || kept < (limits.ring+limits.spill/2)/2 {
			t.Errorf("%v: kept %d bytes", limits, kept)
		}
		sum := sha256.Sum256(data)
		if !bytes.Equal(r.exit.StdoutSha256, sum[:]) {
			t.Errorf("%v: the sum is not over everything", limits)
		}
	}
}

// TestLosslessBlocks has a process that is stopped by a reader who does not come, and nothing is
// lost when one does.
func TestLosslessBlocks(t *testing.T) {
	h := newHost(t)
	data := h.random(t, 1<<20)
	limits := uint64(64 << 10)
	p := h.begin(t, &guestv1.StartRequest{
		Argv: shell("cat random; echo done > done"), RingBytes: limits, SpillBytes: limits, Lossless: true,
	})
	full := func() bool { return h.state(t, p.Id).Stdout.Bytes == 2*limits }
	eventually(t, "the ring is full", full)
	if _, err := os.Stat(filepath.Join(h.root, "done")); err == nil {
		t.Error("the process went on")
	}
	r := h.attach(t, &guestv1.AttachRequest{Id: p.Id})
	if !bytes.Equal(r.stdout, data) || len(r.gaps) != 0 || r.exit.GetCode() != 0 {
		t.Errorf("got %d bytes, gaps %v, exit %v", len(r.stdout), r.gaps, r.exit)
	}
}

// TestKilledLosslessEnds: a command that was killed ends although nobody reads what it has
// printed. What is kept can be read, and a gap tells of the rest.
func TestKilledLosslessEnds(t *testing.T) {
	h := newHost(t)
	const kept = 64 << 10
	for name, limit := range map[string]int64{"signal": 0, "time limit": 300} {
		p := h.begin(t, &guestv1.StartRequest{
			Argv: []string{"yes"}, RingBytes: kept, SpillBytes: 1, Lossless: true, TimeoutMs: limit,
		})
		eventually(t, "the ring is full", func() bool { return h.state(t, p.Id).Stdout.Bytes >= kept })
		if limit == 0 {
			if err := h.signal(t, p.Id, int32(unix.SIGKILL)); err != nil {
				t.Fatal(err)
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		ended, err := h.processes.Wait(ctx, connect.NewRequest(&guestv1.WaitRequest{Id: p.Id}))
		cancel()
		if err != nil || ended.Msg.Process.Exit.GetSignal() != 9 {
			t.Fatalf("%s: %v, %v", name, ended, err)
		}
		r := h.attach(t, &guestv1.AttachRequest{Id: p.Id})
		total := ended.Msg.Process.Exit.StdoutBytes
		if len(r.stdout) != kept || len(r.gaps) != 1 || r.gaps[0].Offset != kept || kept+r.gaps[0].Bytes != total || r.exit.GetStdoutBytes() != total {
			t.Errorf("%s: %d bytes, then %v, of %d", name, len(r.stdout), r.gaps, total)
		}
	}
}

// TestKeptOutputIsBoundedInSum: the output that ended commands leave unread, and what their
// children print later, takes no more than its bounds; the oldest goes first.
func TestKeptOutputIsBoundedInSum(t *testing.T) {
	testneed.Patience(t)
	h := newHost(t)
	const each, commands = 20 << 20, 20 // 400 MiB
	var ids []string
	for i := range commands {
		script := "head -c 20971520 /dev/zero"
		if i%4 == 3 {
			script = "(sleep 0.4; " + script + "; sleep 1000) & exit" // printed after the end, and held
		}
		p := h.begin(t, &guestv1.StartRequest{Argv: shell(script), Lossless: i%2 == 0})
		// so that the first is the oldest
		eventually(t, "it has ended", func() bool { return h.state(t, p.Id).Exit != nil })
		ids = append(ids, p.Id)
	}
	for _, id := range ids {
		eventually(t, "all is printed", func() bool { return h.state(t, id).Stdout.Bytes == each })
	}
	disk := func() (sum int64) {
		for _, p := range h.table.all() {
			_, disk := p.stdout.ring.sizes()
			sum += disk
		}
		return sum
	}
	if memory := h.memory.Load(); disk() > keptDisk+each || memory > keptMemory+mostInPipe*commands/2 {
		t.Errorf("%d bytes on disk and %d in memory", disk(), memory)
	}
	if newest := h.attach(t, &guestv1.AttachRequest{Id: ids[commands-2], NoFollow: true}); len(newest.stdout) != each {
		t.Errorf("of the newest there are %d bytes", len(newest.stdout))
	}
	if oldest := h.attach(t, &guestv1.AttachRequest{Id: ids[0]}); len(oldest.gaps) == 0 || oldest.exit.GetStdoutBytes() != each {
		t.Errorf("of the oldest there are %d bytes, gaps %v", len(oldest.stdout), oldest.gaps)
	}
}

// TestLosslessReconnect cuts the reader again and again: what was on its way is read again.
func TestLosslessReconnect(t *testing.T) {
	h := newHost(t)
	data := h.random(t, 4<<20)
	p := h.begin(t, &guestv1.StartRequest{Argv: []string{"cat", "random"}, RingBytes: 256 << 10, SpillBytes: 1 << 20, Lossless: true})
	var got []byte
	for cuts := 0; len(got) < len(data); cuts++ {
		stream, err := h.processes.Attach(t.Context(), connect.NewRequest(&guestv1.AttachRequest{Id: p.Id, StdoutOffset: uint64(len(got))}))
		if err != nil {
			t.Fatal(err)
		}
		for frames := 0; frames < 5 && stream.Receive(); frames++ {
			if gap := stream.Msg().GetGap(); gap != nil {
				t.Fatalf("gap %v after %d cuts", gap, cuts)
			}
			got = append(got, stream.Msg().GetData().GetData()...)
		}
		if err := stream.Err(); err != nil {
			t.Fatal(err)
		}
		stream.Close()
	}
	if !bytes.Equal(got, data) {
		t.Error("the bytes differ")
	}
}

// TestDiskFull goes on without the file.
func TestDiskFull(t *testing.T) {
	h := newHost(t, func(config *Config, _ *guest.Boot) { config.SpillDir = filepath.Join(config.SpillDir, "below") })
	if err := os.RemoveAll(filepath.Dir(h.config.SpillDir)); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Dir(h.config.SpillDir), "in the way", 0o644)
	t.Cleanup(func() { os.Remove(filepath.Dir(h.config.SpillDir)) })
	data := h.random(t, 1<<20)
	r := h.run(t, &guestv1.StartRequest{Argv: []string{"cat", "random"}, RingBytes: 64 << 10, Lossless: true})
	if !bytes.Equal(r.stdout, data) || len(r.gaps) != 0 {
		t.Errorf("lossless: got %d bytes, gaps %v", len(r.stdout), r.gaps)
	}
	p := h.begin(t, &guestv1.StartRequest{Argv: []string{"cat", "random"}, RingBytes: 64 << 10})
	if _, err := h.processes.Wait(t.Context(), connect.NewRequest(&guestv1.WaitRequest{Id: p.Id})); err != nil {
		t.Fatal(err)
	}
	r = h.attach(t, &guestv1.AttachRequest{Id: p.Id})
	if len(r.gaps) != 1 || !bytes.HasSuffix(data, r.stdout) || len(r.stdout) < 32<<10 {
		t.Errorf("got %d bytes, gaps %v", len(r.stdout), r.gaps)
	}
}

func (h *host) state(t *testing.T, id string) *guestv1.Process {
	t.Helper()
	list, err := h.processes.List(t.Context(), connect.NewRequest(&guestv1.ListRequest{}))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Msg.Processes {
		if p.Id == id {
			return p
		}
	}
	t.Fatalf("no process %s", id)
	return nil
}

// TestRetention keeps the exits and the last output of 1,000 processes, within bounded memory.
func TestRetention(t *testing.T) {
	testneed.Patience(t)
	h := newHost(t)
	large := h.random(t, 1<<20)
	const more = 25
	for i := range mostKept + more {
		req := &guestv1.StartRequest{Id: fmt.Sprint(i), Argv: []string{"no-such-program"}}
		if i >= mostKept-more {
			req.Argv = []string{"cat", "random"}
		}
		h.run(t, req)
	}
	if held := h.memory.Load(); held > keptMemory+2<<20 {
		t.Errorf("ended processes hold %d bytes", held)
	}
	list, err := h.processes.List(t.Context(), connect.NewRequest(&guestv1.ListRequest{}))
	if err != nil || len(list.Msg.Processes) != mostKept || list.Msg.Processes[0].Id != fmt.Sprint(more) {
		t.Fatalf("%d processes, %v", len(list.Msg.Processes), err)
	}
	for i := mostKept - more; i < mostKept+more; i++ {
		r := h.attach(t, &guestv1.AttachRequest{Id: fmt.Sprint(i)})
		if !bytes.Equal(r.stdout, large) || r.exit.GetCode() != 0 {
			t.Errorf("%d: %d bytes, %v", i, len(r.stdout), r.exit)
		}
	}
	_, err = h.processes.Wait(t.Context(), connect.NewRequest(&guestv1.WaitRequest{Id: "0"}))
	wantCode(t, err, connect.CodeNotFound)
}
