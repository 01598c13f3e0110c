package image

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

func layerOf(t testing.TB, content []byte) v1.Layer {
	t.Helper()
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return layer
}

// imageOf builds an image for a platform from layers.
func imageOf(t testing.TB, arch string, layers ...v1.Layer) v1.Image {
	t.Helper()
	image, err := mutate.ConfigFile(mutate.MediaType(empty.Image, types.OCIManifestSchema1), &v1.ConfigFile{
		OS: "linux", Architecture: arch,
		Config: v1.Config{Env: []string{"PATH=/x", "A=b=c", "broken"}, WorkingDir: "/srv", User: "app:app"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if image, err = mutate.AppendLayers(image, layers...); err != nil {
		t.Fatal(err)
	}
	return image
}

// layoutOf writes images into a new layout.
func layoutOf(t testing.TB, images ...v1.Image) string {
	t.Helper()
	dir := t.TempDir()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, image := range images {
		if err := path.AppendImage(image); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// tarOf packs a directory.
func tarOf(t testing.TB, dir string) []byte {
	t.Helper()
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	if err := errors.Join(writer.AddFS(os.DirFS(dir)), writer.Close()); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

func TestLayersAndWhiteouts(t *testing.T) {
	layers := []v1.Layer{
		layerOf(t, archive(t, dir("bin"), file("bin/old", "1"), file("bin/kept", "1"), dir("opaque"), file("opaque/below", "1"), dir("opaque/sub"),
			file("opaque/sub/below", "1"), file("replaced", "1"), dir("tree"), file("tree/x", "1"), symlink("link", "bin"), file("both", "1"))),
		layerOf(t, archive(t,
			file("bin/.wh.old", ""), file("opaque/first", "2"), file("opaque/.wh..wh..opq", ""), file("opaque/last", "2"),
			file("replaced", "2"), file(".wh.tree", ""), file("link/through", "2"), file("both", "2"), file(".wh.both", ""),
			file(".wh..wh.plnk/1.2", ""), file(".wh..wh.aufs", ""), file("never/.wh.there", ""), file("never/.wh..wh..opq", ""), file(".wh.nothing", ""))),
		layerOf(t, archive(t, dir("tree"), file("tree/y", "3"))),
	}
	store := open(t, t.TempDir())
	image := imageOf(t, runtime.GOARCH, layers...)
	got, err := store.Import(t.Context(), "a", layoutOf(t, image), nil)
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := image.Digest(); got.Digest != want.String() {
		t.Errorf("digest %s, not %s", got.Digest, want)
	}
	root := resolve(t, store, "a")
	for name, want := range map[string]string{
		"bin/kept": "1", "opaque/first": "2", "opaque/last": "2", "replaced": "2", "bin/through": "2", "tree/y": "3",
		"both": "2", // the whiteout speaks of the layer below
	} {
		if got := read(t, root, name); got != want {
			t.Errorf("%s holds %q", name, got)
		}
	}
	for _, name := range []string{"bin/old", "opaque/below", "opaque/sub", "tree/x", "never"} {
		if _, err := os.Lstat(filepath.Join(root.Dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if text := listing(t, root.Dir); strings.Contains(text, ".wh.") {
		t.Errorf("whiteouts in the image:\n%s", text)
	}
	if root.User != "app:app" || root.Workdir != "/srv" || len(root.Env) != 2 || root.Env["A"] != "b=c" || root.Env["PATH"] != "/x" {
		t.Errorf("configuration: %+v", root)
	}
}

func TestMaliciousLayers(t *testing.T) {
	canaries, check := outside(t)
	up := strings.Repeat("../", 40)
	for name, test := range map[string]struct {
		code   stacyvm.Code
		layers [][]entry
	}{
		"whiteout of ..":           {stacyvm.CodeInvalid, [][]entry{{file("a/.wh...", "")}}},
		"whiteout of .":            {stacyvm.CodeInvalid, [][]entry{{dir("a")}, {file("a/.wh..", "")}}},
		"whiteout of nothing":      {stacyvm.CodeInvalid, [][]entry{{dir("a")}, {file("a/.wh.", "")}}},
		"whiteout above":           {stacyvm.CodeInvalid, [][]entry{{file(up+canaries+"/.wh.victim", "")}}},
		"absolute whiteout":        {"", [][]entry{{file(canaries+"/.wh.victim", "")}}},
		"whiteout through link":    {"", [][]entry{{symlink("a", canaries)}, {file("a/.wh.victim", "")}}},
		"opaque through link":      {"", [][]entry{{symlink("a", up+canaries)}, {file("a/.wh..wh..opq", "")}}},
		"opaque in link's place":   {"", [][]entry{{symlink("a", canaries)}, {dir("a"), file("a/.wh..wh..opq", ""), file("a/passwd", "pwned")}}},
		"whiteout of link":         {"", [][]entry{{symlink("a", canaries)}, {file(".wh.a", "")}}},
		"opaque root":              {"", [][]entry{{symlink("a", canaries), dir("b")}, {file(".wh..wh..opq", "")}}},
		"whiteout below a file":    {stacyvm.CodeInvalid, [][]entry{{file("a", "b")}, {file("a/.wh.b", "")}}},
		"link in an earlier layer": {"", [][]entry{{symlink("a", canaries)}, {file("a/passwd", "pwned")}}},
		"hard link across layers":  {"", [][]entry{{symlink("a", canaries+"/passwd")}, {hardlink("b", "a")}, {file("b", "pwned")}}},
		"no layers":                {stacyvm.CodeInvalid, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var layers []v1.Layer
			for _, entries := range test.layers {
				layers = append(layers, layerOf(t, archive(t, entries...)))
			}
			dir := layoutOf(t, imageOf(t, runtime.GOARCH, layers...))
			store := open(t, t.TempDir())
			_, err := store.Import(t.Context(), "evil", dir, nil)
			wantCode(t, err, test.code)
			check()
			wantClean(t, store)
			if test.code == "" {
				if err := store.Remove(t.Context(), "evil"); err != nil {
					t.Error(err)
				}
				check()
			}
		})
	}
}

func TestLayoutArchives(t *testing.T) {
	made, err := random.Image(10_000, 3)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := made.Layers()
	if err != nil {
		t.Fatal(err)
	}
	image := imageOf(t, runtime.GOARCH, layers...)
	want, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	content := tarOf(t, layoutOf(t, image))
	for form, content := range map[string][]byte{"plain": content, "gzip": packed(t, content, gzipped)} {
		store := open(t, t.TempDir())
		got, err := store.ImportArchive(t.Context(), "a", bytes.NewReader(content), nil)
		if err != nil || got.Digest != want.String() {
			t.Errorf("%s: %+v %v", form, got, err)
		}
		if got.Bytes < 30_000 || got.Bytes > 31_000 {
			t.Errorf("%s: %d bytes", form, got.Bytes)
		}
		if text := listing(t, resolve(t, store, "a").Dir); strings.Contains(text, "blobs") || strings.Count(text, "random_file") != 3 {
			t.Errorf("%s: unpacked to\n%s", form, text)
		}
		wantClean(t, store)
	}
}

func TestSavedImages(t *testing.T) {
	image := imageOf(t, runtime.GOARCH, layerOf(t, archive(t, file("a", "1"))), layerOf(t, archive(t, file(".wh.a", ""), file("b", "2"))))
	saved := filepath.Join(t.TempDir(), "saved.tar")
	if err := tarball.WriteToFile(saved, name.MustParseReference("some/image:1"), image); err != nil {
		t.Fatal(err)
	}
	store := open(t, t.TempDir())
	got, err := store.Import(t.Context(), "a", saved, nil)
	if err != nil {
		t.Fatal(err)
	}
	if want, _ := image.ConfigName(); got.Digest != want.String() {
		t.Errorf("digest %s, not %s", got.Digest, want)
	}
	root := resolve(t, store, "a")
	if read(t, root, "b") != "2" || root.Workdir != "/srv" {
		t.Errorf("root: %+v", root)
	}
	// A layer that is not what the configuration says.
	content, err := os.ReadFile(saved)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.ImportArchive(t.Context(), "b", bytes.NewReader(bytes.Replace(content, []byte("\x1f\x8b\x08"), []byte("\x1f\x8b\x09"), 1)), nil)
	wantCode(t, err, stacyvm.CodeInvalid)
	wantClean(t, store)
}

// TestDamagedLayouts changes one byte of each file of a layout in turn: whatever it is, the import
// fails and says so.
func TestDamagedLayouts(t *testing.T) {
	source := layoutOf(t, imageOf(t, runtime.GOARCH, layerOf(t, archive(t, file("a", "1"))), static.NewLayer(archive(t, file("b", "2")), types.OCIUncompressedLayer)))
	err := filepath.WalkDir(source, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || entry.Name() == "oci-layout" {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for what, changed := range map[string][]byte{
			"changed": append(bytes.Clone(content[:len(content)-1]), content[len(content)-1]^1), "longer": append(bytes.Clone(content), 'x'),
			"shorter": content[:len(content)/2], "empty": nil,
		} {
			if err := os.WriteFile(path, changed, 0o600); err != nil {
				return err
			}
			if what == "longer" && entry.Name() == "index.json" {
				continue // the index has no digest
			}
			store := open(t, t.TempDir())
			_, err := store.Import(t.Context(), "a", source, nil)
			if stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
				t.Errorf("%s %s: %v", entry.Name(), what, err)
			}
			wantClean(t, store)
		}
		if err := os.Remove(path); err != nil {
			return err
		}
		_, err = open(t, t.TempDir()).Import(t.Context(), "a", source, nil)
		if entry.Name() != "index.json" { // without it, it is a directory like any other
			wantCode(t, err, stacyvm.CodeInvalid)
		}
		return os.WriteFile(path, content, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, t.TempDir()).Import(t.Context(), "a", source, nil); err != nil {
		t.Errorf("the undamaged layout: %v", err)
	}
}

func TestPlatforms(t *testing.T) {
	const foreign = "s390x"
	ours := imageOf(t, runtime.GOARCH, layerOf(t, archive(t, file("ours", "1"))))
	other := imageOf(t, foreign, layerOf(t, archive(t, file("other", "1"))))
	third := imageOf(t, runtime.GOARCH, layerOf(t, archive(t, file("third", "1"))))
	index := func(images ...v1.Image) v1.ImageIndex {
		all := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
		for _, image := range images {
			config, err := image.ConfigFile()
			if err != nil {
				t.Fatal(err)
			}
			all = mutate.AppendManifests(all, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: config.OS, Architecture: config.Architecture}}})
		}
		return all
	}
	for what, test := range map[string]struct {
		code stacyvm.Code
		top  v1.ImageIndex
	}{
		"both":             {"", index(other, ours)},
		"nested":           {"", mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: index(other, ours)})},
		"twice the same":   {"", mutate.AppendManifests(index(ours), mutate.IndexAddendum{Add: index(other, ours)})},
		"one of a nested":  {"", mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: index(ours, third)})},
		"from the config":  {"", mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: other}, mutate.IndexAddendum{Add: ours})},
		"other":            {stacyvm.CodeInvalid, index(other)},
		"nested other":     {stacyvm.CodeInvalid, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: index(other)})},
		"two":              {stacyvm.CodeInvalid, index(ours, third)},
		"none":             {stacyvm.CodeInvalid, empty.Index},
		"a lying platform": {stacyvm.CodeInvalid, mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: other, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}})},
	} {
		t.Run(what, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := layout.Write(dir, test.top); err != nil {
				t.Fatal(err)
			}
			store := open(t, t.TempDir())
			_, err := store.Import(t.Context(), "a", dir, nil)
			wantCode(t, err, test.code)
			if err == nil && read(t, resolve(t, store, "a"), "ours") != "1" {
				t.Error("the wrong image")
			}
		})
	}
}

func TestDeepAndWideIndexes(t *testing.T) {
	deep := t.TempDir()
	write := func(dir, name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write(deep, "oci-layout", "{}")
	index := `{"manifests":[]}`
	for range 10 {
		sum := sha256.Sum256([]byte(index))
		write(deep, "blobs/sha256/"+hex.EncodeToString(sum[:]), index)
		index = fmt.Sprintf(`{"manifests":[{"mediaType":%q,"size":1,"digest":%q}]}`, types.OCIImageIndex, digest(sum[:]))
	}
	write(deep, "index.json", index)
	_, err := open(t, t.TempDir()).Import(t.Context(), "a", deep, nil)
	wantCode(t, err, stacyvm.CodeInvalid)

	wide := t.TempDir()
	line := fmt.Sprintf(`{"mediaType":%q,"size":1,"digest":"sha256:%064d","platform":{"os":"linux","architecture":"x"}}`, types.OCIManifestSchema1, 0)
	write(wide, "oci-layout", "{}")
	write(wide, "index.json", `{"manifests":[`+strings.Repeat(line+",", 2000)+line+`]}`)
	_, err = open(t, t.TempDir()).Import(t.Context(), "a", wide, nil)
	wantCode(t, err, stacyvm.CodeInvalid)
}
