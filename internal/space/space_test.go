package space

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

const disk = 32 << 20

func guardOn(t *testing.T, dir string) *Guard {
	t.Helper()
	g, err := New(Config{Dirs: []string{dir, dir}, MinFree: 1 << 30, Reserve: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	g.Start()
	return g
}

// parts counts what there is of the reserve.
func parts(t *testing.T, dir string) int {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, reserveDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(found)
}

// fill writes until nothing more fits.
func fill(t *testing.T, path string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for size := 1 << 20; size >= 4096; size /= 2 {
		for err = nil; err == nil; {
			_, err = file.Write(make([]byte, size))
		}
	}
}

// write is something small that needs room.
func write(path string) error {
	return os.WriteFile(path, make([]byte, 16<<10), 0o600)
}

// TestFullDisk: what takes room is refused before the last bytes are gone; what must not fail
// succeeds on a disk on which nothing fits, and goes on to; the reserve is made again when there
// is room.
func TestFullDisk(t *testing.T) {
	dir := testneed.Tmpfs(t, disk)
	g := guardOn(t, dir)
	if err := g.Full(); err != nil || len(g.Problems()) > 0 || parts(t, dir) != slices {
		t.Fatalf("empty: %v, %v, %d parts", err, g.Problems(), parts(t, dir))
	}
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, disk-disk/watermarkPart-disk/reservePart), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := g.Full(); stacyvm.CodeOf(err) != stacyvm.CodeStorageFull || len(g.Problems()) != 1 {
		t.Errorf("below the watermark: %v, %v", err, g.Problems())
	}
	if err := write(filepath.Join(dir, "still")); err != nil {
		t.Errorf("below the watermark nothing fits any more: %v", err)
	}
	fill(t, ballast)
	// a server starts on the full disk
	again, err := New(Config{Dirs: []string{dir}, MinFree: 1 << 30, Reserve: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	again.Start()
	if left := parts(t, dir); left != slices/2 {
		t.Errorf("the start leaves %d parts", left)
	}
	for i := range 5 {
		fill(t, ballast) // somebody takes whatever there is
		if err := write(filepath.Join(dir, "none")); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("the disk is not full: %v", err)
		}
		err := again.Spare(func() error { return write(filepath.Join(dir, fmt.Sprint("spared", i))) })
		if i < slices/2 && err != nil {
			t.Errorf("round %d, %d parts are left: %v", i, parts(t, dir), err)
		}
		if i == slices/2 && !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("without a reserve: %v", err)
		}
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	again.remake()
	if err := again.Full(); err != nil || parts(t, dir) != slices {
		t.Errorf("with room again: %v, %d parts", err, parts(t, dir))
	}
}

// TestFewInodes: a file system may be full of files that hold nothing.
func TestFewInodes(t *testing.T) {
	dir := t.TempDir()
	testneed.Root(t, "mount a small file system")
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=16m,nr_inodes=4000,mode=0700"); err != nil {
		testneed.Missing(t, "root", err.Error())
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	g := guardOn(t, dir)
	if err := g.Full(); err != nil || parts(t, dir) != slices {
		t.Fatalf("%v, %d parts", err, parts(t, dir))
	}
	var err error
	for i := 0; err == nil; i++ {
		err = os.WriteFile(filepath.Join(dir, fmt.Sprint(i)), nil, 0o600)
	}
	if err := g.Full(); stacyvm.CodeOf(err) != stacyvm.CodeStorageFull {
		t.Errorf("without inodes: %v", err)
	}
	if err := g.Spare(func() error { return write(filepath.Join(dir, "spared")) }); err != nil {
		t.Error(err)
	}
}

// TestReadOnly: a file system that became read-only is told of, and nothing is tried in vain for
// ever.
func TestReadOnly(t *testing.T) {
	dir := testneed.Tmpfs(t, disk)
	g := guardOn(t, dir)
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|syscall.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	if err := g.Full(); stacyvm.CodeOf(err) != stacyvm.CodeStorageFull || len(g.Problems()) != 1 {
		t.Errorf("%v, %v", err, g.Problems())
	}
	if err := g.Spare(func() error { return write(filepath.Join(dir, "x")) }); !errors.Is(err, syscall.EROFS) || parts(t, dir) != slices {
		t.Errorf("%v, %d parts", err, parts(t, dir))
	}
}

// TestNoGuard watches nothing.
func TestNoGuard(t *testing.T) {
	var g *Guard
	full := stacyvm.Errorf(stacyvm.CodeStorageFull, "no")
	if err := g.Spare(func() error { return full }); g.Full() != nil || g.Problems() != nil || !errors.Is(err, full) {
		t.Error("it watches something")
	}
}

// TestChanged: who watches is told once that a disk is full, and once that it has room again.
func TestChanged(t *testing.T) {
	dir := testneed.Tmpfs(t, disk)
	g := guardOn(t, dir)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	ballast := filepath.Join(dir, "ballast")
	fill(t, ballast)
	<-g.Changed()
	if len(g.Problems()) == 0 {
		t.Error("told of a problem, and there is none")
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	<-g.Changed()
	if problems := g.Problems(); len(problems) > 0 {
		t.Errorf("told that there is no problem any more: %v", problems)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
