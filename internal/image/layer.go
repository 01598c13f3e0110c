package image

import (
	"archive/tar"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// readTar calls visit for each entry of a tar archive that may be compressed, reads it to its end,
// and gives the checksums of the bytes as they came and of what they unpack to.
func readTar(
	r io.Reader,
	meter *meter,
	visit func(*tar.Header, io.Reader) error,
) (packed, unpacked string, err error) {
	packedSum, unpackedSum := sha256.New(), sha256.New()
	raw := io.TeeReader(meter.source(r), packedSum)
	plain, err := decompress(raw)
	if err != nil {
		return "", "", damaged(meter, err)
	}
	defer plain.Close()
	var broken error // what the decompressor said, which visit may have wrapped
	stream := io.TeeReader(readerFunc(func(buffer []byte) (int, error) {
		n, err := plain.Read(buffer)
		if err != nil && !errors.Is(err, io.EOF) {
			broken = err
		}
		return n, err
	}), unpackedSum)
	stream = meter.output(stream)
	archive := tar.NewReader(stream)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return "", "", damaged(meter, err)
		}
		if err := visit(header, archive); broken != nil {
			return "", "", damaged(meter, broken)
		} else if err != nil {
			return "", "", err
		}
	}
	for _, rest := range []io.Reader{stream, raw} {
		if _, err := io.Copy(io.Discard, rest); err != nil {
			return "", "", damaged(meter, err)
		}
	}
	return digest(packedSum.Sum(nil)), digest(unpackedSum.Sum(nil)), nil
}

func digest(sum []byte) string { return "sha256:" + hex.EncodeToString(sum) }

// damaged tells a bad archive from one that could not be read.
func damaged(meter *meter, err error) error {
	var known *stacyvm.Error
	var path *fs.PathError
	switch {
	case meter.err != nil:
		return ioError(meter.err, "the import was stopped")
	case errors.As(err, &known):
		return err
	case errors.As(err, &path):
		return ioError(err, "the source cannot be read")
	}
	bad := stacyvm.Invalid("source", "it is not a tar archive, or it is damaged")
	bad.Err = err
	return bad
}

// Whiteouts are how a layer says that something of the layers below is gone.
const (
	whiteout       = ".wh."
	whiteoutMeta   = ".wh..wh."
	whiteoutOpaque = ".wh..wh..opq"
)

// addLayer unpacks one layer over what is there. It reads the layer twice: whiteouts speak of the
// layers below and may stand anywhere in it, so that they are carried out before anything of the
// layer itself is there.
func (u *unpacker) addLayer(root *os.Root, layer layer) error {
	if err := u.readLayer(
		root,
		layer,
		func(header *tar.Header, _ io.Reader) error { return u.erase(header.Name) },
	); err != nil {
		return err
	}
	return u.readLayer(root, layer, func(header *tar.Header, body io.Reader) error {
		if strings.HasPrefix(header.Name, whiteout) || strings.Contains(header.Name, "/"+whiteout) {
			return nil
		}
		return u.add(header, body)
	})
}

func (u *unpacker) readLayer(root *os.Root, layer layer, visit func(*tar.Header, io.Reader) error) error {
	file, err := openRegular(root, layer.path)
	if err != nil {
		return err
	}
	defer file.Close()
	packed, unpacked, err := readTar(file, u.meter, visit)
	if err != nil {
		return err
	}
	if layer.digest != "" && layer.digest != packed || layer.diffID != unpacked {
		return stacyvm.Invalid("source", "the content of the layer %s is not what its digest says", layer.diffID)
	}
	return nil
}

// erase carries out a whiteout; other names change nothing.
func (u *unpacker) erase(name string) error {
	base := path.Base(name)
	if !strings.HasPrefix(base, whiteout) || strings.HasPrefix(base, whiteoutMeta) && base != whiteoutOpaque {
		return nil
	}
	gone := strings.TrimPrefix(base, whiteout)
	if gone == "" || gone == "." || gone == ".." {
		return invalidEntry(name, "it removes nothing that has a name")
	}
	clean, err := cleanName(name)
	if err != nil {
		return err
	}
	dir, _ := split(clean)
	dir, err = u.resolve(dir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return entryError(name, err)
	}
	u.forget()
	if base == whiteoutOpaque {
		return entryError(name, u.empty(dir))
	}
	return entryError(name, u.root.RemoveAll(path.Join(dir, gone)))
}

// empty removes everything in a directory.
func (u *unpacker) empty(dir string) error {
	handle, err := u.root.Open(dir)
	if err != nil {
		return err
	}
	defer handle.Close()
	names, err := handle.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := u.root.RemoveAll(path.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}
