package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// importerEnv makes the test binary a process that imports its standard input into the directory
// it names.
const importerEnv = "STACYVM_TEST_IMPORT_INTO"

func TestMain(m *testing.M) {
	if dir := os.Getenv(importerEnv); dir != "" {
		store, err := Open(dir)
		if err == nil {
			_, err = store.ImportArchive(context.Background(), "slow", os.Stdin, func(int64) { fmt.Println("reading") })
		}
		fmt.Println("ended", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

func open(t testing.TB, dir string) *Store {
	t.Helper()
	store, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// entry is one line of an archive that a test makes; content of directories and links is their
// target.
type entry struct {
	name    string
	kind    byte
	content string
	change  func(*tar.Header)
}

func file(name, content string) entry { return entry{name: name, kind: tar.TypeReg, content: content} }
func dir(name string) entry           { return entry{name: name, kind: tar.TypeDir} }
func symlink(name, to string) entry   { return entry{name: name, kind: tar.TypeSymlink, content: to} }
func hardlink(name, to string) entry  { return entry{name: name, kind: tar.TypeLink, content: to} }

func (e entry) with(change func(*tar.Header)) entry { e.change = change; return e }

var someTime = time.Date(2020, 2, 3, 4, 5, 6, 0, time.UTC)

func archive(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	for _, e := range entries {
		header := &tar.Header{Name: e.name, Typeflag: e.kind, Mode: 0o644, ModTime: someTime, Format: tar.FormatPAX}
		switch e.kind {
		case tar.TypeReg:
			header.Size = int64(len(e.content))
		case tar.TypeDir:
			header.Mode = 0o755
		default:
			header.Linkname = e.content
		}
		if e.change != nil {
			e.change(header)
		}
		if err := writer.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if e.kind == tar.TypeReg {
			if _, err := io.WriteString(writer, e.content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

func importEntries(t testing.TB, store *Store, name string, entries ...entry) error {
	t.Helper()
	_, err := store.ImportArchive(t.Context(), name, bytes.NewReader(archive(t, entries...)), nil)
	return err
}

func resolve(t testing.TB, store *Store, name string) Root {
	t.Helper()
	root, err := store.Resolve(t.Context(), name, "tester")
	if err != nil {
		t.Fatal(err)
	}
	return root
}

func read(t testing.TB, root Root, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(root.Dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func wantCode(t testing.TB, err error, code stacyvm.Code) {
	t.Helper()
	if got := stacyvm.CodeOf(err); got != code {
		t.Errorf("error %v has code %q, not %q", err, got, code)
	}
}

// wantClean fails unless the image directory holds nothing but finished things.
func wantClean(t testing.TB, store *Store) {
	t.Helper()
	left, err := filepath.Glob(store.path(temporaryPat))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}

func TestLifeOfAnImage(t *testing.T) {
	store := open(t, t.TempDir())
	const name = "library/small:1.0"
	if err := importEntries(t, store, name, dir("bin"), file("bin/tool", "content")); err != nil {
		t.Fatal(err)
	}
	wantCode(t, importEntries(t, store, name, dir("bin")), stacyvm.CodeConflict)
	images, err := store.List(t.Context())
	if err != nil || len(images) != 2 || !images[0].BuiltIn || images[0].Name != Host {
		t.Fatalf("list: %+v %v", images, err)
	}
	if got := images[1]; got.Name != name || got.Bytes != 7 || got.InUse != 0 || len(got.Digest) != 71 || time.Since(got.CreatedAt) > time.Hour {
		t.Errorf("list: %+v", got)
	}
	root := resolve(t, store, name)
	if read(t, root, "bin/tool") != "content" {
		t.Error("wrong content")
	}
	// Another process sees the use.
	other := open(t, store.dir)
	wantCode(t, other.Remove(t.Context(), name), stacyvm.CodeConflict)
	if images, err := other.List(t.Context()); err != nil || images[1].InUse != 1 {
		t.Errorf("list: %+v %v", images, err)
	}
	if held, err := other.Holders(); err != nil || !slices.Equal(held, []string{"tester"}) {
		t.Errorf("holders: %v %v", held, err)
	}
	for range 2 {
		if err := other.Release("tester"); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.Remove(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	wantCode(t, store.Remove(t.Context(), name), stacyvm.CodeNotFound)
	_, err = store.Resolve(t.Context(), name, "tester")
	wantCode(t, err, stacyvm.CodeNotFound)
	if held, err := store.Holders(); err != nil || len(held) != 0 {
		t.Errorf("a failed resolve left %v %v", held, err)
	}
	wantClean(t, store)
}

func TestHolderMovesToAnotherImage(t *testing.T) {
	store := open(t, t.TempDir())
	for _, name := range []string{"a", "b"} {
		if err := importEntries(t, store, name, dir("bin")); err != nil {
			t.Fatal(err)
		}
		resolve(t, store, name)
		resolve(t, store, name)
	}
	if err := store.Remove(t.Context(), "a"); err != nil {
		t.Errorf("the image that is no longer held: %v", err)
	}
	wantCode(t, store.Remove(t.Context(), "b"), stacyvm.CodeConflict)
}

func TestNames(t *testing.T) {
	store := open(t, t.TempDir())
	for _, name := range []string{"", Host, "../x", "/x", "UPPER", "a b", "a\n", ".a", string(bytes.Repeat([]byte("a"), 256))} {
		wantCode(t, importEntries(t, store, name, dir("bin")), stacyvm.CodeInvalid)
		if name != Host {
			_, err := store.Resolve(t.Context(), name, "tester")
			wantCode(t, err, stacyvm.CodeNotFound)
		}
	}
	wantCode(t, store.Remove(t.Context(), Host), stacyvm.CodeConflict)
	wantCode(t, store.Remove(t.Context(), "../holders"), stacyvm.CodeNotFound)
	for _, holder := range []string{"", ".", "..", "a/b", "../../x"} {
		_, err := store.Resolve(t.Context(), Host, holder)
		wantCode(t, err, stacyvm.CodeInvalid)
		if err := store.Release(holder); err != nil {
			t.Error(err)
		}
	}
	if err := importEntries(t, store, "registry.example:5000/a_b/c-d@sha256:00", dir("bin")); err != nil {
		t.Error(err)
	}
}

// TestResolveAgainstRemove checks that whoever got a root keeps it: a remove either came first or
// is refused.
func TestResolveAgainstRemove(t *testing.T) {
	path := t.TempDir()
	for round := range 20 {
		name := fmt.Sprintf("image%d", round)
		if err := importEntries(t, open(t, path), name, file("bin/tool", "content")); err != nil {
			t.Fatal(err)
		}
		start := make(chan struct{})
		var all sync.WaitGroup
		for worker := range 4 {
			store := open(t, path)
			all.Go(func() {
				<-start
				holder := fmt.Sprintf("holder%d-%d", round, worker)
				root, err := store.Resolve(t.Context(), name, holder)
				if err != nil {
					wantCode(t, err, stacyvm.CodeNotFound)
					return
				}
				if _, err := os.Stat(filepath.Join(root.Dir, "bin/tool")); err != nil {
					t.Errorf("a held root is gone: %v", err)
				}
				if err := store.Release(holder); err != nil {
					t.Error(err)
				}
			})
			all.Go(func() {
				<-start
				if err := store.Remove(t.Context(), name); err != nil && stacyvm.CodeOf(err) != stacyvm.CodeNotFound {
					wantCode(t, err, stacyvm.CodeConflict)
				}
			})
		}
		close(start)
		all.Wait()
	}
	wantClean(t, open(t, path))
}

func TestImportsOfOneNameAtOnce(t *testing.T) {
	path := t.TempDir()
	won := make(chan string, 8)
	var all sync.WaitGroup
	for worker := range cap(won) {
		store := open(t, path)
		content := archive(t, file("who", fmt.Sprint(worker)))
		all.Go(func() {
			if _, err := store.ImportArchive(t.Context(), "same", bytes.NewReader(content), nil); err == nil {
				won <- fmt.Sprint(worker)
			} else {
				wantCode(t, err, stacyvm.CodeConflict)
			}
		})
	}
	all.Wait()
	close(won)
	var winners []string
	for winner := range won {
		winners = append(winners, winner)
	}
	store := open(t, path)
	if len(winners) != 1 || read(t, resolve(t, store, "same"), "who") != winners[0] {
		t.Errorf("winners: %v", winners)
	}
	wantClean(t, store)
}

func TestEndOfContextLeavesNothing(t *testing.T) {
	store := open(t, t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	content := archive(t, file("a", string(bytes.Repeat([]byte("x"), 1<<20))), file("b", "b"))
	_, err := store.ImportArchive(ctx, "a", bytes.NewReader(content), func(done int64) {
		if done > 100_000 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error: %v", err)
	}
	wantClean(t, store)
	_, err = store.Resolve(t.Context(), "a", "tester")
	wantCode(t, err, stacyvm.CodeNotFound)
}

// TestKilledImport kills a process in the middle of an import. While it lives nobody may take its
// work away.
func TestKilledImport(t *testing.T) {
	path := t.TempDir()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), importerEnv+"="+path)
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	defer command.Wait()
	defer command.Process.Kill()
	if _, err := stdin.Write(archive(t, file("bin/tool", string(bytes.Repeat([]byte("x"), 1<<20))))[:512<<10]); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, len("reading"))); err != nil {
		t.Fatal(err)
	}
	store := open(t, path)
	working, err := filepath.Glob(store.path(temporaryPat))
	if err != nil || len(working) != 1 {
		t.Fatalf("work in progress: %v %v", working, err)
	}
	if err := command.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := command.Wait(); err == nil {
		t.Fatal("it ended by itself")
	}
	_, err = store.Resolve(t.Context(), "slow", "tester")
	wantCode(t, err, stacyvm.CodeNotFound)
	wantClean(t, open(t, path))
}

func TestHeldImageSurvivesOpen(t *testing.T) {
	path := t.TempDir()
	store := open(t, path)
	if err := importEntries(t, store, "a", file("x", "y")); err != nil {
		t.Fatal(err)
	}
	root := resolve(t, store, "a")
	before := listing(t, root.Dir)
	open(t, path)
	if after := listing(t, root.Dir); after != before || before == "" {
		t.Errorf("changed from %s to %s", before, after)
	}
}

// listing is everything below dir in one text.
func listing(t testing.TB, dir string) string {
	t.Helper()
	var all bytes.Buffer
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		fmt.Fprintln(&all, path[len(dir):], info.Mode(), info.Size())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
