package image

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// FuzzUnpack feeds archives to an import: nothing outside changes, a refusal is the source's fault
// and leaves nothing, and what is taken can be listed and removed.
func FuzzUnpack(f *testing.F) {
	f.Add(archive(f, dir("a"), file("a/b", "c"), symlink("l", "/a"), hardlink("h", "l/b"), file("l/x", "y")))
	f.Add(archive(f, symlink("a", "../../.."), file("a/canary", "pwned"), file("a/../../canary", "pwned")))
	f.Add(archive(f, file("etc/passwd", "x"), symlink("tmp", "/"), dir("tmp/"), file(".", "x")))
	f.Add(packed(f, archive(f, file("x", "y")), gzipped))
	f.Add(packed(f, archive(f, file("x", "y")), zstded))
	f.Add(archive(f, file("oci-layout", "{}"), file("index.json", layoutIndex), dir("blobs")))
	f.Add(archive(f, file("manifest.json", `[{"Config":"c","Layers":["l"]}]`), file("c", "{}"), file("l", "")))
	top := f.TempDir()
	canary := filepath.Join(top, "canary")
	if err := os.WriteFile(canary, []byte("canary"), 0o600); err != nil {
		f.Fatal(err)
	}
	store := open(f, filepath.Join(top, "images"))
	store.Limits = Limits{Bytes: 1 << 20, Entries: 100}
	f.Fuzz(func(t *testing.T, content []byte) {
		_, err := store.ImportArchive(t.Context(), "fuzz", bytes.NewReader(content), nil)
		if err == nil {
			if err := store.Remove(t.Context(), "fuzz"); err != nil {
				t.Error(err)
			}
		} else if code := stacyvm.CodeOf(err); code != stacyvm.CodeInvalid && code != stacyvm.CodeTooLarge {
			t.Errorf("error: %v", err)
		}
		wantClean(t, store)
		entries, readErr := os.ReadDir(top)
		now, canaryErr := os.ReadFile(canary)
		if err := errors.Join(readErr, canaryErr); err != nil || len(entries) != 2 || string(now) != "canary" {
			t.Errorf("outside: %v %q %v", entries, now, err)
		}
	})
}

// FuzzReference names an image in any way: what is a name is imported, found and removed, and any
// other one touches nothing.
func FuzzReference(f *testing.F) {
	for _, name := range []string{"host", "alpine:3.20", "ghcr.io/a/b@sha256:0123456789abcdef", "../etc", "a/../../b", "A", "a\x00b", "", "-a", strings.Repeat("a", 256)} {
		f.Add(name)
	}
	dir := f.TempDir()
	store := open(f, filepath.Join(dir, "images"))
	content := archive(f, file("x", "y"))
	f.Fuzz(func(t *testing.T, name string) {
		_, err := store.ImportArchive(t.Context(), name, bytes.NewReader(content), nil)
		if err != nil {
			if stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
				t.Errorf("import: %v", err)
			}
			if name == Host { // it is this machine's, and is made when it is asked for
				return
			}
			if _, err := store.Resolve(t.Context(), name, "holder"); stacyvm.CodeOf(err) != stacyvm.CodeNotFound {
				t.Errorf("an image that is none: %v", err)
			}
		} else {
			root, err := store.Resolve(t.Context(), name, "holder")
			if err != nil || filepath.Dir(filepath.Dir(root.Dir)) != filepath.Join(dir, "images") {
				t.Errorf("found in %s: %v", root.Dir, err)
			}
			if err := errors.Join(store.Release("holder"), store.Remove(t.Context(), name)); err != nil {
				t.Error(err)
			}
		}
		if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
			t.Errorf("outside: %v, %v", entries, err)
		}
	})
}
