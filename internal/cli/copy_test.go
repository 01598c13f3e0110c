package cli

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/client"
)

// hostileArchive is what a guest program that is not ours could send.
func hostileArchive(t *testing.T, outside string) []byte {
	t.Helper()
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, h := range []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0},
		{Name: "first", Typeflag: tar.TypeReg, Mode: 0o7777},
		{Name: "../up", Typeflag: tar.TypeReg}, {Name: "a/../../up", Typeflag: tar.TypeReg}, {Name: outside + "/abs", Typeflag: tar.TypeReg}, {Name: "..", Typeflag: tar.TypeDir},
		{Name: "out", Typeflag: tar.TypeSymlink, Linkname: outside}, {Name: "out/through", Typeflag: tar.TypeReg}, {Name: "out/deep", Typeflag: tar.TypeDir},
		{Name: "up", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "up/through", Typeflag: tar.TypeReg}, {Name: "up/victim", Typeflag: tar.TypeSymlink, Linkname: "x"},
		{Name: "victim", Typeflag: tar.TypeSymlink, Linkname: outside + "/victim"}, {Name: "victim", Typeflag: tar.TypeReg},
		{Name: "hard", Typeflag: tar.TypeLink, Linkname: outside + "/victim"}, {Name: "hard2", Typeflag: tar.TypeLink, Linkname: "first"},
		{Name: "device", Typeflag: tar.TypeChar}, {Name: "fifo", Typeflag: tar.TypeFifo},
		{Name: strings.Repeat("d/", 500) + "x", Typeflag: tar.TypeReg}, {Name: strings.Repeat("n", 300), Typeflag: tar.TypeReg},
		{Name: "holes", Typeflag: tar.TypeReg, PAXRecords: map[string]string{"VENDOR.x": "1"}},
		{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{client.OmittedRecord: "so\x1b[2Jcket: is a socket"}},
		{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{client.FailedRecord: "bad: input/output error"}},
		{Name: "last", Typeflag: tar.TypeReg, Mode: 0o600},
	} {
		if h.Typeflag == tar.TypeReg {
			h.Size = 4
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte("evil")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

// serveArchive is a server whose sandbox has one directory.
func serveArchive(t *testing.T, archive []byte) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/sandboxes/sb-1/files/stat", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"path":"/d","is_dir":true,"mode":"755"}`)
	})
	mux.HandleFunc("GET /api/v1/sandboxes/sb-1/files/archive", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(archive) })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	t.Setenv("STACYVM_SERVER", server.URL)
}

// TestHostileArchive: nothing is written outside the target, and what is odd costs the rest
// nothing.
func TestHostileArchive(t *testing.T) {
	parent, outside := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "victim"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	serveArchive(t, hostileArchive(t, outside))
	out, problem, exit := command(t.Context(), t, nil, "cp", "sb-1:/d", filepath.Join(parent, "to"))
	if exit != 1 || out != "" || !strings.Contains(problem, "bad: input/output error") || strings.Contains(problem, "\x1b") {
		t.Errorf("printed %q, problem %q, exit %d", out, problem, exit)
	}
	var left []string
	for _, dir := range []string{parent, outside} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			left = append(left, entry.Name())
		}
	}
	if content, err := os.ReadFile(filepath.Join(outside, "victim")); err != nil || string(content) != "mine" || !slices.Equal(left, []string{"to", "victim"}) {
		t.Errorf("outside: %q, %q, %v", left, content, err)
	}
	var got []string
	entries, err := os.ReadDir(filepath.Join(parent, "to"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if err != nil || info.Mode()&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky) != 0 {
			t.Errorf("%s: %v, %v", entry.Name(), info.Mode(), err)
		}
		got = append(got, entry.Name())
	}
	if want := []string{"first", "holes", "last", "out", "up", "victim"}; !slices.Equal(got, want) {
		t.Errorf("in the target: %q, want %q", got, want)
	}
}

// TestHostileSparse: a few bytes do not become many.
func TestHostileSparse(t *testing.T) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	if err := w.WriteHeader(&tar.Header{Name: "holes", Typeflag: tar.TypeReg, Size: 512, Format: tar.FormatGNU}); err != nil {
		t.Fatal(err)
	}
	header := archive.Bytes()[:512]
	header[156] = 'S'
	copy(header[483:495], "77777777777\x00") // 8 GiB
	copy(header[148:156], "        ")
	sum := 0
	for _, b := range header {
		sum += int(b)
	}
	copy(header[148:156], fmt.Sprintf("%06o\x00 ", sum))
	archive.Write(make([]byte, 1536))
	serveArchive(t, archive.Bytes())
	dir := t.TempDir()
	_, problem, _ := command(t.Context(), t, nil, "cp", "sb-1:/d", filepath.Join(dir, "to"))
	if entries, err := os.ReadDir(filepath.Join(dir, "to")); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v, problem %q", entries, err, problem)
	}
}

// TestArchiveThatBreaksOff: what came is there, nothing half, and the exit code tells.
func TestArchiveThatBreaksOff(t *testing.T) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, name := range []string{"whole", "half"} {
		if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 2048, Mode: 0o600}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(make([]byte, 2048)); err != nil {
			t.Fatal(err)
		}
	}
	serveArchive(t, archive.Bytes()[:archive.Len()-1000])
	dir := t.TempDir()
	_, problem, exit := command(t.Context(), t, nil, "cp", "sb-1:/d", filepath.Join(dir, "to"))
	entries, err := os.ReadDir(filepath.Join(dir, "to"))
	if err != nil || exit != 1 || problem == "" || len(entries) != 1 || entries[0].Name() != "whole" {
		t.Errorf("%v, %v, problem %q, exit %d", entries, err, problem, exit)
	}
}
