package image

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

func TestCopiedDirectory(t *testing.T) {
	canaries, check := outside(t)
	source := t.TempDir()
	put(t, source, "usr/bin/tool", "content")
	put(t, source, "closed/x", "y")
	putLink(t, source, "out", canaries)
	putLink(t, source, "in", "usr/bin/tool")
	putLink(t, source, "loop", "loop")
	for name, mode := range map[string]fs.FileMode{"usr/bin/tool": 0o755 | fs.ModeSetuid, "closed": 0o750} {
		if err := os.Chmod(filepath.Join(source, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chtimes(filepath.Join(source, "usr/bin/tool"), someTime, someTime); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(filepath.Join(source, "pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	socket, err := net.Listen("unix", filepath.Join(source, "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	// The store may lie in the source itself.
	store := open(t, filepath.Join(source, "store"))
	var progress int64
	made, err := store.Import(t.Context(), "a", source, func(done int64) { progress = done })
	if err != nil {
		t.Fatal(err)
	}
	if made.Digest != "" || made.Bytes != 8 || progress != 8 {
		t.Errorf("made %+v, progress %d", made, progress)
	}
	root := resolve(t, store, "a")
	if err := os.RemoveAll(filepath.Join(source, "usr")); err != nil {
		t.Fatal(err)
	}
	if read(t, root, "usr/bin/tool") != "content" {
		t.Error("it was not copied")
	}
	info, err := os.Stat(filepath.Join(root.Dir, "usr/bin/tool"))
	if err != nil || info.Mode() != 0o755 || !info.ModTime().Equal(someTime) {
		t.Errorf("%v %v", info, err)
	}
	for name, want := range map[string]string{"out": canaries, "in": "usr/bin/tool", "loop": "loop"} {
		if got, err := os.Readlink(filepath.Join(root.Dir, name)); err != nil || got != want {
			t.Errorf("%s: %q %v", name, got, err)
		}
	}
	for _, name := range []string{"pipe", "socket", "store"} {
		if _, err := os.Lstat(filepath.Join(root.Dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	check()
}

func TestWrongSources(t *testing.T) {
	store := open(t, t.TempDir())
	for _, source := range []string{"", filepath.Join(t.TempDir(), "missing")} {
		_, err := store.Import(t.Context(), "a", source, nil)
		wantCode(t, err, stacyvm.CodeInvalid)
	}
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("this is no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := store.Import(t.Context(), "a", text, nil)
	wantCode(t, err, stacyvm.CodeInvalid)
	wantClean(t, store)
}

// TestFullDisk imports into a file system of 4 MiB.
func TestFullDisk(t *testing.T) {
	store := open(t, filepath.Join(testneed.Tmpfs(t, 4<<20), "images"))
	for range 3 {
		wantCode(t, importEntries(t, store, "big", file("a", strings.Repeat("x", 3<<20)), file("b", strings.Repeat("x", 3<<20))), stacyvm.CodeStorageFull)
		wantClean(t, store)
	}
	if err := importEntries(t, store, "small", file("a", strings.Repeat("x", 1<<20))); err != nil {
		t.Errorf("after the failures: %v", err)
	}
}

// TestOtherFileSystemsStayOut copies a directory in which something is mounted.
func TestOtherFileSystemsStayOut(t *testing.T) {
	source := t.TempDir()
	put(t, source, "x", "y")
	if err := os.Mkdir(filepath.Join(source, "mounted"), 0o700); err != nil {
		t.Fatal(err)
	}
	testneed.Mount(t, filepath.Join(source, "mounted"), 1<<20)
	put(t, source, "mounted/secret", "z")
	store := open(t, t.TempDir())
	if _, err := store.Import(t.Context(), "a", source, nil); err != nil {
		t.Fatal(err)
	}
	if text := listing(t, resolve(t, store, "a").Dir); strings.Contains(text, "secret") || !strings.Contains(text, "/mounted ") {
		t.Errorf("copied:\n%s", text)
	}
}

// TestBusybox runs a program of an imported image in its root.
func TestBusybox(t *testing.T) {
	testneed.Root(t, "enter a root file system")
	path := testneed.Program(t, "busybox")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if program, err := elf.NewFile(bytes.NewReader(content)); err != nil || slices.ContainsFunc(program.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
		testneed.Missing(t, "busybox", path+" is not a static program")
	}
	store := open(t, t.TempDir())
	err = importEntries(t, store, "busybox", dir("bin"), file("bin/busybox", string(content)).with(func(h *tar.Header) { h.Mode = 0o755 }),
		hardlink("bin/sh", "bin/busybox"), symlink("bin/id", "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	command := exec.Command("/bin/sh", "-c", "id -un && cd /workspace && echo it runs")
	command.SysProcAttr = &syscall.SysProcAttr{Chroot: resolve(t, store, "busybox").Dir, Credential: &syscall.Credential{Uid: userID, Gid: userID}}
	command.Dir, command.Env = "/", []string{"PATH=/bin"}
	out, err := command.CombinedOutput()
	if err != nil || string(out) != "user\nit runs\n" {
		t.Errorf("%q %v", out, err)
	}
}

// TestSlowSource ends the context of an import whose source does not end.
func TestSlowSource(t *testing.T) {
	store := open(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	reads := 0
	source := readerFunc(func(buffer []byte) (int, error) {
		if reads++; reads == 1000 {
			cancel()
		}
		return endless{}.Read(buffer)
	})
	_, err := store.ImportArchive(ctx, "a", io.MultiReader(strings.NewReader(string(bombHead(t, 32<<30))), source), nil)
	if !errors.Is(err, context.Canceled) || reads > 1100 {
		t.Errorf("%v after %d reads", err, reads)
	}
	wantClean(t, store)
	if images, err := store.List(t.Context()); err != nil || slices.ContainsFunc(images, func(i Image) bool { return i.Name == "a" }) {
		t.Errorf("list: %v %v", images, err)
	}
}
