package agent

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// packed makes an archive of headers; the content of a file is its Linkname.
func packed(t *testing.T, headers ...tar.Header) io.Reader {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, h := range headers {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content, h.Linkname = h.Linkname, ""
		}
		h.Size, h.Format = int64(len(content)), tar.FormatGNU
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		must(t, w.WriteHeader(&h))
		_, err := io.WriteString(w, content)
		must(t, err)
	}
	must(t, w.Close())
	return &archive
}

// look describes a tree: name, mode, content or link.
func look(t *testing.T, dir string) (lines []string) {
	t.Helper()
	must(t, filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		content := ""
		switch {
		case info.Mode().IsRegular():
			raw, err := os.ReadFile(name)
			if content = string(raw); err != nil {
				return err
			}
		case info.Mode()&fs.ModeSymlink != 0:
			content, err = os.Readlink(name)
		}
		lines = append(lines, fmt.Sprintf("%q %v %q", strings.TrimPrefix(name, dir), info.Mode(), content))
		return err
	}))
	return lines
}

func TestArchiveThereAndBack(t *testing.T) {
	onBothRoots(t, func(t *testing.T, c *guest.Client, dir, base string) {
		from := filepath.Join(dir, "from")
		for _, name := range []string{"plain", "caf\xe9", "new\nline", "sub/deep/file", strings.Repeat("l", 200) + "/" + strings.Repeat("m", 200)} {
			must(t, os.MkdirAll(filepath.Dir(filepath.Join(from, name)), 0o755))
			write(t, filepath.Join(from, name), name, 0o640)
		}
		write(t, filepath.Join(from, "empty"), "", 0o4755)
		must(t, os.Mkdir(filepath.Join(from, "private"), 0o700))
		must(t, os.Symlink("../elsewhere", filepath.Join(from, "link")))
		must(t, os.Symlink("/etc", filepath.Join(from, "out")))
		archive, err := c.PackFiles(t.Context(), base+"/from")
		must(t, err)
		defer archive.Close()
		unpacked, err := c.UnpackFiles(t.Context(), base+"/new/to", "", archive)
		if err != nil || unpacked.Failed != 0 || unpacked.Entries != uint64(len(look(t, from))) {
			t.Fatalf("%+v, %v", unpacked, err)
		}
		if want, got := look(t, from), look(t, filepath.Join(dir, "new/to")); !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	})
}

// TestPackTells: what cannot be packed is told and stops nothing.
func TestPackTells(t *testing.T) {
	dir := t.TempDir()
	c, _, _ := serveServices(t, "/")
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	socket, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(dir, "a-socket"))
	must(t, err)
	defer socket.Close()
	write(t, filepath.Join(dir, "last"), "here", 0o600)
	archive, err := c.PackFiles(t.Context(), dir)
	must(t, err)
	defer archive.Close()
	kinds, omitted := map[string]byte{}, ""
	for r := tar.NewReader(archive); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		kinds[header.Name] = header.Typeflag
		omitted += header.PAXRecords[guest.OmittedRecord]
	}
	if kinds["./"] != tar.TypeDir || kinds["fifo"] != tar.TypeFifo || kinds["last"] != tar.TypeReg || !strings.HasPrefix(omitted, "a-socket: ") {
		t.Errorf("%v, omitted %q", kinds, omitted)
	}
	for path, code := range map[string]stacyvm.Code{dir + "/last": stacyvm.CodeInvalid, dir + "/none": stacyvm.CodeNotFound, "/proc/self/status": stacyvm.CodeInvalid} {
		_, err := c.PackFiles(t.Context(), path)
		wantFailure(t, path, err, code)
	}
	// Files of the kernel say that they are empty.
	archive, err = c.PackFiles(t.Context(), "/proc/self/net/stat")
	must(t, err)
	defer archive.Close()
	if all, err := io.ReadAll(archive); err != nil || !bytes.Contains(all, []byte("entries")) {
		t.Errorf("%d bytes, %v", len(all), err)
	}
}

// TestUnpackOverWhatIsThere: each entry replaces its name and not what that points to, and one
// that fails stops no other.
func TestUnpackOverWhatIsThere(t *testing.T) {
	onBothRoots(t, func(t *testing.T, c *guest.Client, dir, base string) {
		to := filepath.Join(dir, "to")
		must(t, os.MkdirAll(filepath.Join(to, "is-dir/full"), 0o755))
		must(t, os.MkdirAll(filepath.Join(dir, "aside"), 0o755))
		write(t, filepath.Join(dir, "victim"), "mine", 0o600)
		write(t, filepath.Join(to, "old"), "old", 0o600)
		must(t, os.Symlink("../victim", filepath.Join(to, "link")))
		must(t, os.Symlink("../aside", filepath.Join(to, "dir-link")))
		unpacked, err := c.UnpackFiles(t.Context(), base+"/to", "", packed(t,
			tar.Header{Name: "old", Typeflag: tar.TypeReg, Linkname: "new", Mode: 0o751},
			tar.Header{Name: "link", Typeflag: tar.TypeReg, Linkname: "replaces the link"},
			tar.Header{Name: "dir-link/", Typeflag: tar.TypeDir, Mode: 0o700}, tar.Header{Name: "dir-link/in", Typeflag: tar.TypeReg, Linkname: "through"},
			tar.Header{Name: "is-dir", Typeflag: tar.TypeReg, Linkname: "x"}, tar.Header{Name: "is-dir", Typeflag: tar.TypeSymlink, Linkname: "x"},
			tar.Header{Name: "old/below", Typeflag: tar.TypeReg, Linkname: "x"}, tar.Header{Name: "../up", Typeflag: tar.TypeReg, Linkname: "x"},
			tar.Header{Name: "a/../../up", Typeflag: tar.TypeReg, Linkname: "x"}, tar.Header{Name: "fifo", Typeflag: tar.TypeFifo},
			tar.Header{Name: strings.Repeat("n", 300), Typeflag: tar.TypeReg, Linkname: "x"}, tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "../victim"},
			tar.Header{Name: "/hard", Typeflag: tar.TypeLink, Linkname: "old"}, tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "/old"},
			tar.Header{Name: "last", Typeflag: tar.TypeReg, Linkname: "still"},
		))
		if err != nil || unpacked.Entries != 7 || unpacked.Failed != 8 || len(unpacked.Failures) != 8 || unpacked.Failures[0].Name != "is-dir" {
			t.Fatalf("%+v, %v", unpacked, err)
		}
		want := []string{`"" drwxr-xr-x ""`, `"/dir-link" Lrwxrwxrwx "../aside"`, `"/hard" -rwxr-x--x "new"`, `"/is-dir" drwxr-xr-x ""`, `"/is-dir/full" drwxr-xr-x ""`,
			`"/last" -rw-r--r-- "still"`, `"/link" -rw-r--r-- "replaces the link"`, `"/old" -rwxr-x--x "new"`}
		if got := look(t, to); !slices.Equal(got, want) {
			t.Errorf("got\n%s", strings.Join(got, "\n"))
		}
		if text(t, c, base+"/victim") != "mine" || text(t, c, base+"/aside/in") != "through" {
			t.Error("a link was written through, or a directory's was not")
		}
		if _, err := os.Lstat(filepath.Join(dir, "up")); err == nil {
			t.Error("a name led out of the directory")
		}
	})
}

// TestUnpackGoesThroughNoLinkOfItsOwn: an archive cannot write outside of the directory by way of
// a link that it brings.
func TestUnpackGoesThroughNoLinkOfItsOwn(t *testing.T) {
	onBothRoots(t, func(t *testing.T, c *guest.Client, dir, base string) {
		to := filepath.Join(dir, "t")
		must(t, os.MkdirAll(filepath.Join(dir, "aside/deep"), 0o755))
		must(t, os.MkdirAll(filepath.Join(to, "real"), 0o755))
		write(t, filepath.Join(dir, "aside/victim"), "mine", 0o600)
		must(t, os.Symlink(".", filepath.Join(to, "self")))
		must(t, os.Symlink("real", filepath.Join(to, "swapped")))
		must(t, os.Symlink("t", filepath.Join(dir, "name")))
		unpacked, err := c.UnpackFiles(t.Context(), base+"/name", "", packed(t,
			tar.Header{Name: "swapped/ok", Typeflag: tar.TypeReg, Linkname: "x"},
			tar.Header{Name: "swapped", Typeflag: tar.TypeSymlink, Linkname: "../aside"},
			tar.Header{Name: "swapped/a", Typeflag: tar.TypeReg, Linkname: "x"},
			tar.Header{Name: "e", Typeflag: tar.TypeSymlink, Linkname: "../aside"},
			tar.Header{Name: "e/b", Typeflag: tar.TypeReg, Linkname: "x"},
			tar.Header{Name: "e/deep/c", Typeflag: tar.TypeReg, Linkname: "x"},
			tar.Header{Name: "e/new/d", Typeflag: tar.TypeReg, Linkname: "x"},
			tar.Header{Name: "self/e/f", Typeflag: tar.TypeReg, Linkname: "x"},
			tar.Header{Name: "e/made", Typeflag: tar.TypeDir},
			tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "e/victim"},
			tar.Header{Name: "dangling", Typeflag: tar.TypeSymlink, Linkname: "../none"},
			tar.Header{Name: "dangling/g", Typeflag: tar.TypeReg, Linkname: "x"},
			tar.Header{Name: ".", Typeflag: tar.TypeSymlink, Linkname: "aside"},
			tar.Header{Name: "e", Typeflag: tar.TypeReg, Linkname: "replaced"},
			tar.Header{Name: "last", Typeflag: tar.TypeReg, Linkname: "still"},
		))
		if err != nil || unpacked.Entries != 6 || unpacked.Failed != 9 {
			t.Errorf("%+v, %v", unpacked, err)
		}
		if got := look(t, filepath.Join(dir, "aside")); len(got) != 3 {
			t.Errorf("beside the directory is\n%s", strings.Join(got, "\n"))
		}
		if text(t, c, base+"/t/last") != "still" || text(t, c, base+"/t/e") != "replaced" || text(t, c, base+"/t/real/ok") != "x" {
			t.Error("what is right is not in place")
		}
		if _, err := os.Stat(filepath.Join(dir, "none")); err == nil {
			t.Error("a link that led nowhere was filled")
		}
	})
}

func TestUnpackNothingHalf(t *testing.T) {
	onBothRoots(t, func(t *testing.T, c *guest.Client, dir, base string) {
		whole, err := io.ReadAll(packed(t, tar.Header{Name: "first", Typeflag: tar.TypeReg, Linkname: "whole"}, tar.Header{Name: "second", Typeflag: tar.TypeReg, Linkname: strings.Repeat("x", 1<<20)}))
		must(t, err)
		for what, body := range map[string]io.Reader{
			"no archive":  strings.NewReader(strings.Repeat("x", 2048)),
			"too short":   bytes.NewReader(whole[:len(whole)/2]),
			"body breaks": io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), &endless{after: 0, cut: func() {}}),
		} {
			_, err := c.UnpackFiles(t.Context(), base+"/to", "", body)
			wantFailure(t, what, err, stacyvm.CodeInvalid)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if _, err := c.UnpackFiles(ctx, base+"/to", "", io.MultiReader(bytes.NewReader(whole[:len(whole)/2]), &endless{after: 0, cut: cancel})); err == nil {
			t.Error("a cut archive is a success")
		}
		eventually(t, "only the whole file is there", func() bool {
			entries, err := os.ReadDir(filepath.Join(dir, "to"))
			return err == nil && len(entries) == 1 && entries[0].Name() == "first"
		})
		_, err = c.UnpackFiles(t.Context(), base+"/to/first", "", bytes.NewReader(whole))
		if err != nil {
			t.Error(err) // each entry fails by itself
		}
		_, err = c.UnpackFiles(t.Context(), base+"/to", "nobody-here", bytes.NewReader(whole))
		wantFailure(t, "an unknown user", err, stacyvm.CodeInvalid)
	})
}

func TestUnpackOwners(t *testing.T) {
	testneed.Root(t, "give files away")
	dir := t.TempDir()
	c, _, _ := serveServices(t, dir)
	write(t, filepath.Join(dir, "old"), "x", 0o600)
	must(t, os.Chown(filepath.Join(dir, "old"), 7, 8))
	unpacked, err := c.UnpackFiles(t.Context(), "/", "12:34", packed(t,
		tar.Header{Name: "old", Typeflag: tar.TypeReg, Uid: 99}, tar.Header{Name: "a/new", Typeflag: tar.TypeReg, Uid: 99},
		tar.Header{Name: "d", Typeflag: tar.TypeDir}, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "old"}))
	if err != nil || unpacked.Failed != 0 {
		t.Fatalf("%+v, %v", unpacked, err)
	}
	for name, want := range map[string]string{"old": "7:8", "a": "12:34", "a/new": "12:34", "d": "12:34", "l": "12:34"} {
		var stat unix.Stat_t
		if err := unix.Lstat(filepath.Join(dir, name), &stat); err != nil || fmt.Sprintf("%d:%d", stat.Uid, stat.Gid) != want {
			t.Errorf("%s belongs to %d:%d, %v", name, stat.Uid, stat.Gid, err)
		}
	}
}
