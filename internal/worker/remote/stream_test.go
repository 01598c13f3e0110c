package remote_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/testneed"
	"github.com/stacyvm/stacyvm/internal/worker"
	"github.com/stacyvm/stacyvm/internal/worker/remote"
)

// mostMemory is what client, worker and guest together may take for a transfer, garbage included.
const mostMemory = 96 << 20

// memory watches the heap until stop, which gives by how much it grew at most.
func memory() (stop func() uint64) {
	runtime.GC()
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	first, most := sample[0].Value.Uint64(), uint64(0)
	end, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for {
			metrics.Read(sample)
			most = max(most, sample[0].Value.Uint64())
			select {
			case <-tick.C:
			case <-end:
				return
			}
		}
	}()
	return func() uint64 {
		close(end)
		<-done
		return max(most, first) - first
	}
}

func reach(t testing.TB, w worker.Worker, ref stacyvm.Ref, scope guest.Scope) *guest.Client {
	t.Helper()
	conn, err := w.Guest(t.Context(), ref, scope)
	if err != nil {
		t.Fatalf("guest: %v", err)
	}
	return guest.NewClient(conn)
}

// drain reads an output to its end.
func drain(t testing.TB, o *guest.Output, into hash.Hash) *stacyvm.Exit {
	t.Helper()
	defer o.Close()
	for {
		event, err := o.Next(t.Context())
		if err != nil {
			t.Fatalf("output: %v", err)
		}
		if event.Gap > 0 {
			t.Fatalf("%d bytes are missing at %d", event.Gap, event.Offset)
		}
		into.Write(event.Data)
		if event.Exit != nil {
			return event.Exit
		}
	}
}

// TestLongStream: 256 MiB of output arrive whole, and are nowhere kept.
func TestLongStream(t *testing.T) {
	testneed.Patience(t)
	const size = 256 << 20
	far := openLocal(t)
	client, _ := overMTLS(t).connect(t, far.worker, nil)
	ref := fresh()
	create(t, client, ref)
	used := memory()
	o, err := reach(t, client, ref, guest.ScopeExec).Run(t.Context(), stacyvm.Command{
		Argv: []string{"/bin/sh", "-c", "yes 'a line of which there are many' | head -c 268435456"}, Lossless: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	got := sha256.New()
	exit := drain(t, o, got)
	grown := used()
	want := sha256.New()
	line := []byte("a line of which there are many\n")
	block := bytes.Repeat(line, 1<<14)
	for left := size; left > 0; left -= min(left, len(block)) {
		want.Write(block[:min(left, len(block))])
	}
	if sum := got.Sum(nil); exit.StdoutBytes != size || !bytes.Equal(sum, exit.StdoutSHA256) || !bytes.Equal(sum, want.Sum(nil)) {
		t.Errorf("%d bytes, hash %x, the guest says %x, want %x", exit.StdoutBytes, sum, exit.StdoutSHA256, want.Sum(nil))
	}
	if grown > mostMemory {
		t.Errorf("it took %d MiB of memory", grown>>20)
	}
	t.Logf("grew by %d MiB", grown>>20)
}

// TestLargeFile: a file of 64 MiB goes up and comes down unchanged.
func TestLargeFile(t *testing.T) {
	testneed.Patience(t)
	const size = 64 << 20
	far := openLocal(t)
	client, _ := overMTLS(t).connect(t, far.worker, nil)
	ref := fresh()
	create(t, client, ref)
	files := reach(t, client, ref, guest.ScopeFiles)
	used := memory()
	sent := sha256.New()
	content := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{7}), size), sent)
	info, err := files.WriteFile(t.Context(), "/workspace/large", 0o600, "", content)
	if err != nil || info.Size != size {
		t.Fatalf("%+v, %v", info, err)
	}
	info, body, err := files.ReadFile(t.Context(), "/workspace/large")
	if err != nil || info.Size != size {
		t.Fatalf("%+v, %v", info, err)
	}
	defer body.Close()
	received := sha256.New()
	if n, err := io.Copy(received, body); err != nil || n != size {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if grown := used(); grown > mostMemory {
		t.Errorf("it took %d MiB of memory", grown>>20)
	}
	if !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
		t.Error("another file came back")
	}
}

// TestCutUpload: a file whose sender fails does not appear.
func TestCutUpload(t *testing.T) {
	far := openLocal(t)
	client, _ := overTokens(t).connect(t, far.worker, nil)
	ref := fresh()
	create(t, client, ref)
	files := reach(t, client, ref, guest.ScopeFiles)
	broken := io.MultiReader(bytes.NewReader(make([]byte, 1<<20)), failing{})
	_, err := files.WriteFile(t.Context(), "/workspace/cut", 0, "", broken)
	if err == nil {
		t.Error("half a file was taken for whole")
	}
	_, err = files.StatFile(t.Context(), "/workspace/cut")
	wantCode(t, "stat", err, stacyvm.CodeNotFound)
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errors.New("the sender is gone") }

// TestMoreStreamsThanAConnectionTakes: the worker's own calls, signs of life and guests' control
// calls get through however many outputs are open.
func TestMoreStreamsThanAConnectionTakes(t *testing.T) {
	const streams, each = 300, 50
	far := openLocal(t)
	tr := overMTLS(t)
	l := listen(t, remote.NewHandler(tr.config(t, far.worker)), tr.server)
	l.close()
	l.streams = each
	l.open(t)
	client := tr.dial(t, l.url())
	ref := fresh()
	create(t, client, ref)
	exec := reach(t, client, ref, guest.ScopeExec)
	p, err := exec.Start(t.Context(), stacyvm.Command{Argv: []string{"/bin/sh", "-c", "echo up; exec sleep 1000"}})
	if err != nil {
		t.Fatal(err)
	}
	var outputs [streams]*guest.Output
	var all errgroup.Group
	// a call that finds no room dials, and a busy machine does not shake 300 hands within a
	// handshake's time
	all.SetLimit(16)
	for i := range outputs {
		all.Go(func() (err error) {
			outputs[i], err = exec.Attach(t.Context(), p.ID, 0, 0, true)
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	open := l.accepted.Load()
	for range 20 {
		if _, err := exec.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
		if inventory, err := client.Inventory(t.Context()); err != nil || len(inventory.Runtimes) != 1 || inventory.Runtimes[0].Phase != worker.PhaseRunning {
			t.Fatalf("%+v, %v", inventory, err)
		}
	}
	if now := l.accepted.Load(); now > open+1 {
		t.Errorf("control calls made %d connections", now-open)
	}
	if err := exec.Signal(t.Context(), p.ID, 9); err != nil {
		t.Fatal(err)
	}
	for i, o := range outputs {
		if exit := drain(t, o, sha256.New()); exit.Signal != 9 {
			t.Errorf("output %d: %+v", i, exit)
		}
	}
}

// TestSlowReaders: streams that nobody reads, in both directions, stop nothing else on their
// connection.
func TestSlowReaders(t *testing.T) {
	testneed.Patience(t)
	far := openLocal(t)
	client, l := overMTLS(t).connect(t, far.worker, nil)
	ref := fresh()
	create(t, client, ref)
	exec := reach(t, client, ref, guest.ScopeExec)
	for range 12 {
		o, err := exec.Run(t.Context(), stacyvm.Command{Argv: []string{"/bin/sh", "-c", "yes"}, Lossless: true})
		if err != nil {
			t.Fatal(err)
		}
		defer o.Close()
	}
	port := deaf(t)
	for range 12 {
		conn, err := client.DialPort(t.Context(), ref, port)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		if n, err := io.Copy(conn, rand.NewChaCha8([32]byte{})); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("%d bytes went to somebody who does not read: %v", n, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if _, err := client.Inventory(ctx); err != nil {
		t.Errorf("inventory: %v", err)
	}
	if _, err := reach(t, client, ref, guest.ScopeFiles).WriteFile(ctx, "/workspace/f", 0, "", bytes.NewReader(make([]byte, 4<<20))); err != nil {
		t.Errorf("a file: %v", err)
	}
	o, err := exec.Run(ctx, stacyvm.Command{Argv: []string{"/bin/sh", "-c", "head -c 4194304 /dev/zero"}, Lossless: true})
	if err != nil {
		t.Fatal(err)
	}
	if exit := drain(t, o, sha256.New()); exit.StdoutBytes != 4<<20 {
		t.Errorf("%+v", exit)
	}
	if n := l.accepted.Load(); n != 2 { // one for control calls
		t.Errorf("%d connections", n)
	}
}

// deaf gives a port of this machine that accepts and never reads.
func deaf(t testing.TB) uint16 {
	t.Helper()
	return serve(t, func(conn net.Conn) { <-t.Context().Done() })
}

// serve gives a port of this machine, which is every mock sandbox's too; each connection is
// handled and closed.
func serve(t testing.TB, handle func(net.Conn)) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				handle(conn)
			}()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return uint16(l.Addr().(*net.TCPAddr).Port)
}

// TestPort: a sandbox's port is a connection like any other: it ends in halves, breaks off, and
// has deadlines.
func TestPort(t *testing.T) {
	far := openLocal(t)
	client, _ := overMTLS(t).connect(t, far.worker, nil)
	ref := fresh()
	create(t, client, ref)
	dial := func(handle func(net.Conn)) net.Conn {
		conn, err := client.DialPort(t.Context(), ref, serve(t, handle))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	halves := dial(func(conn net.Conn) { // answers when it has heard everything
		content, _ := io.ReadAll(conn)
		_, _ = conn.Write(bytes.ToUpper(content))
	})
	if _, err := halves.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := halves.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if content, err := io.ReadAll(halves); err != nil || string(content) != "HELLO" {
		t.Errorf("%q, %v", content, err)
	}
	mute := dial(func(net.Conn) { <-t.Context().Done() })
	_ = mute.SetReadDeadline(time.Now().Add(10 * time.Millisecond))
	if _, err := mute.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after its deadline a read gives %v", err)
	}
	broken := dial(func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 1))    // a reset before it would be one of the dial
		_ = conn.(*net.TCPConn).SetLinger(0) // a reset
	})
	if _, err := broken.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := broken.Read(make([]byte, 1)); stacyvm.CodeOf(err) != stacyvm.CodeUnavailable {
		t.Errorf("a connection that was reset reads %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := client.DialPort(ctx, ref, 80)
	wantCode(t, "a caller who left", err, stacyvm.CodeUnavailable)
}
