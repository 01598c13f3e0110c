package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// layered is an image in layers, as an OCI layout or `docker save` has it. Everything in its
// directory is hostile: it is only read through os.Root, and only what has the right digest
// counts.
type layered struct {
	root   *os.Root
	digest string
	config *v1.ConfigFile
	layers []layer
}

// layer is one archive of changes. digest is that of the file, empty when nobody says; diffID that
// of the tar archive in it.
type layer struct{ path, digest, diffID string }

const (
	// maxJSON bounds each index, manifest and configuration; maxManifests how many are looked at;
	// maxLayers is far above what builders make.
	maxJSON      = 8 << 20
	maxManifests = 1000
	maxLayers    = 1000
)

// openLayered reads the image in a directory; nil when the directory is a root file system.
func openLayered(root *os.Root) (*layered, error) {
	image := &layered{root: root}
	switch {
	case isFile(root, "oci-layout") && isFile(root, "index.json"):
		return image, image.readLayout()
	case isFile(root, "manifest.json") && !isThere(root, "etc") && !isThere(root, "bin") && !isThere(root, "usr"):
		return image, image.readSaved()
	}
	return nil, nil
}

func isThere(root *os.Root, name string) bool {
	_, err := root.Lstat(name)
	return err == nil
}

func isFile(root *os.Root, name string) bool {
	info, err := root.Lstat(name)
	return err == nil && info.Mode().IsRegular()
}

// readLayout picks this machine's image of a layout.
func (l *layered) readLayout() error {
	raw, err := readSmall(l.root, "index.json")
	if err != nil {
		return err
	}
	choice := chooser{layered: l}
	top, err := choice.index(raw)
	if err != nil {
		return err
	}
	for _, entry := range top {
		if err := choice.consider(entry, 0); err != nil {
			return err
		}
	}
	switch {
	case len(choice.found) == 0 && len(choice.others) == 0:
		return stacyvm.Invalid("source", "it holds no image")
	case len(choice.found) == 0:
		return stacyvm.Invalid(
			"source",
			"it holds no image for linux/%s, only for: %s",
			runtime.GOARCH,
			strings.Join(choice.others, ", "),
		)
	case len(choice.found) > 1:
		return stacyvm.Invalid(
			"source",
			"it holds %d images for linux/%s: keep one of them",
			len(choice.found),
			runtime.GOARCH,
		)
	}
	return l.take(choice.found[0])
}

// chooser looks through indexes for manifests of this machine's platform.
type chooser struct {
	*layered
	seen   int
	found  []v1.Hash // different digests
	others []string  // platforms that are there but not ours
}

func (c *chooser) index(raw []byte) ([]v1.Descriptor, error) {
	index, err := v1.ParseIndexManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, badLayout(err)
	}
	return index.Manifests, nil
}

// consider looks at one entry. Of an index only the first fitting manifest counts: further ones
// are for newer processors.
func (c *chooser) consider(entry v1.Descriptor, depth int) error {
	if c.seen++; c.seen > maxManifests || depth > 3 {
		return stacyvm.Invalid("source", "its index is too large")
	}
	switch {
	case entry.MediaType.IsIndex():
		raw, err := c.blob(entry.Digest)
		if err != nil {
			return err
		}
		entries, err := c.index(raw)
		if err != nil {
			return err
		}
		for before := len(c.found); len(entries) > 0 && len(c.found) == before; entries = entries[1:] {
			if err := c.consider(entries[0], depth+1); err != nil {
				return err
			}
		}
		return nil
	case !entry.MediaType.IsImage():
		return nil
	}
	platform, err := c.platform(entry)
	if err != nil {
		return err
	}
	if platform.OS != "linux" || platform.Architecture != runtime.GOARCH {
		if platform.OS != "unknown" { // what builders say of their build is no image
			c.others = append(c.others, platform.String())
		}
		return nil
	}
	if !slices.Contains(c.found, entry.Digest) {
		c.found = append(c.found, entry.Digest)
	}
	return nil
}

func (c *chooser) platform(entry v1.Descriptor) (*v1.Platform, error) {
	if entry.Platform != nil {
		return entry.Platform, nil
	}
	_, config, err := c.manifest(entry.Digest)
	if err != nil {
		return nil, err
	}
	return config.Platform(), nil
}

// take makes the manifest with this digest the image.
func (l *layered) take(digest v1.Hash) error {
	manifest, config, err := l.manifest(digest)
	if err != nil {
		return err
	}
	paths, digests := []string{}, []string{}
	for _, blob := range manifest.Layers {
		paths = append(paths, blobPath(blob.Digest))
		digests = append(digests, blob.Digest.String())
	}
	l.digest = digest.String()
	return l.setLayers(config, paths, digests)
}

// setLayers pairs the layers' files with the checksums that the configuration has of them.
func (l *layered) setLayers(config *v1.ConfigFile, paths, digests []string) error {
	l.config = config
	if os, arch := config.OS, config.Architecture; os != "" && os != "linux" || arch != "" && arch != runtime.GOARCH {
		return stacyvm.Invalid("source", "it is an image for %s/%s, not for linux/%s", os, arch, runtime.GOARCH)
	}
	if len(paths) == 0 {
		return stacyvm.Invalid("source", "the image has no layers")
	}
	if len(paths) != len(config.RootFS.DiffIDs) || len(paths) > maxLayers {
		return stacyvm.Invalid("source", "the image's configuration does not fit its %d layers", len(paths))
	}
	for i, path := range paths {
		next := layer{path: path, diffID: config.RootFS.DiffIDs[i].String()}
		if digests != nil {
			next.digest = digests[i]
		}
		l.layers = append(l.layers, next)
	}
	return nil
}

func (l *layered) manifest(digest v1.Hash) (*v1.Manifest, *v1.ConfigFile, error) {
	raw, err := l.blob(digest)
	if err != nil {
		return nil, nil, err
	}
	manifest, err := v1.ParseManifest(bytes.NewReader(raw))
	if err != nil {
		return nil, nil, badLayout(err)
	}
	if raw, err = l.blob(manifest.Config.Digest); err != nil {
		return nil, nil, err
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return nil, nil, badLayout(err)
	}
	return manifest, config, nil
}

func blobPath(hash v1.Hash) string { return path.Join("blobs", hash.Algorithm, hash.Hex) }

// blob reads a small blob and checks its digest.
func (l *layered) blob(hash v1.Hash) ([]byte, error) {
	raw, err := readSmall(l.root, blobPath(hash))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(raw); digest(sum[:]) != hash.String() {
		return nil, stacyvm.Invalid("source", "the content of %s is not what its digest says", hash)
	}
	return raw, nil
}

// readSaved reads what `docker save` writes: a manifest.json that names the files of one image.
func (l *layered) readSaved() error {
	raw, err := readSmall(l.root, "manifest.json")
	if err != nil {
		return err
	}
	var images []struct {
		Config string
		Layers []string
	}
	if err := json.Unmarshal(raw, &images); err != nil {
		return badLayout(err)
	}
	if len(images) != 1 {
		return stacyvm.Invalid("source", "it holds %d images: save one only", len(images))
	}
	if raw, err = readSmall(l.root, images[0].Config); err != nil {
		return err
	}
	config, err := v1.ParseConfigFile(bytes.NewReader(raw))
	if err != nil {
		return badLayout(err)
	}
	sum := sha256.Sum256(raw)
	l.digest = digest(sum[:])
	return l.setLayers(config, images[0].Layers, nil)
}

func badLayout(err error) error {
	bad := stacyvm.Invalid("source", "its index, manifest or configuration cannot be read")
	bad.Err = err
	return bad
}

// openRegular opens a file of an untrusted directory; it never waits for a pipe's other end.
func openRegular(root *os.Root, name string) (*os.File, error) {
	file, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrPermission) {
		return nil, ioError(err, "the source cannot be read")
	} else if err != nil {
		bad := stacyvm.Invalid("source", "%q is missing", name)
		bad.Err = err
		return nil, bad
	}
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		file.Close()
		return nil, stacyvm.Invalid("source", "%q is not a file", name)
	}
	return file, nil
}

func readSmall(root *os.Root, name string) ([]byte, error) {
	file, err := openRegular(root, name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, maxJSON+1))
	if err != nil {
		return nil, ioError(err, "the source cannot be read")
	}
	if len(raw) > maxJSON {
		return nil, stacyvm.Invalid("source", "%q is larger than %s", name, fmt.Sprint(maxJSON>>20, " MiB"))
	}
	return raw, nil
}
