package image

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Import makes an image from a directory, an OCI layout (a directory or an archive of it), what
// `docker save` writes, or a tar archive of a root file system. Archives may be packed with gzip,
// zstd or bzip2. progress, when not nil, hears how many bytes of the source have been read; layers
// are read twice. After an error or the end of ctx nothing is left.
//
// An image without a shell is fine: commands that are given as a list of arguments run in it.
//
// CodeConflict: the name is taken. CodeInvalid: the name or the source is wrong. CodeTooLarge: it
// is over the store's Limits, or grows beyond all measure. CodeStorageFull: no space.
func (s *Store) Import(ctx context.Context, name, source string, progress func(done int64)) (Image, error) {
	info, err := os.Stat(source)
	if err != nil {
		return Image{}, sourceError(err)
	}
	if !info.IsDir() {
		file, err := os.Open(source)
		if err != nil {
			return Image{}, sourceError(err)
		}
		defer file.Close()
		return s.ImportArchive(ctx, name, file, progress)
	}
	root, err := os.OpenRoot(source)
	if err != nil {
		return Image{}, sourceError(err)
	}
	defer root.Close()
	return s.importing(ctx, name, progress, func(job *job) error { return job.directory(root, s.dir) })
}

// ImportArchive is Import from an archive that is read once, such as standard input. It does not
// end a Read that waits when ctx ends.
func (s *Store) ImportArchive(
	ctx context.Context,
	name string,
	archive io.Reader,
	progress func(done int64),
) (Image, error) {
	return s.importing(ctx, name, progress, func(job *job) error { return job.archive(archive) })
}

// job is one import at work in a temporary directory.
type job struct {
	dir    string
	meter  *meter
	record record
}

func (j *job) path(elements ...string) string {
	return filepath.Join(append([]string{j.dir}, elements...)...)
}

// Names in a job's directory.
const (
	finishedDir = "image"
	archiveDir  = "archive"
)

func (s *Store) importing(
	ctx context.Context,
	name string,
	progress func(int64),
	fill func(*job) error,
) (image Image, err error) {
	if err := checkName(name); err != nil {
		return Image{}, err
	}
	taken := stacyvm.Errorf(
		stacyvm.CodeConflict,
		"there is an image %q already: remove it first, or take another name",
		name,
	)
	if _, err := os.Lstat(s.path(directoryOf(name))); err == nil {
		return Image{}, taken
	}
	work, err := s.newTemporary()
	if err != nil {
		return Image{}, err
	}
	defer func() {
		if left := work.discard(); err != nil { // after a success the next Open can have what is left
			err = errors.Join(err, left)
		}
	}()
	job := &job{
		dir:    work.path,
		meter:  &meter{ctx: ctx, limits: s.Limits, progress: progress},
		record: record{Name: name},
	}
	if err := job.make(fill); err != nil {
		return Image{}, ioError(err, "the image cannot be imported")
	}
	if err := ctx.Err(); err != nil {
		return Image{}, err
	}
	if err := s.publish(job.path(finishedDir), directoryOf(name)); errors.Is(err, fs.ErrExist) {
		return Image{}, taken
	} else if err != nil {
		return Image{}, err
	}
	made := job.record.image(0)
	made.LeftOut = job.meter.left
	return made, nil
}

// make builds the finished directory.
func (j *job) make(fill func(*job) error) error {
	if err := os.Mkdir(j.path(finishedDir), 0o700); err != nil {
		return err
	}
	if err := fill(j); err != nil {
		return err
	}
	if err := complete(j.path(finishedDir, rootDir)); err != nil {
		return err
	}
	j.record.Bytes, j.record.CreatedAt = j.meter.content, time.Now().UTC()
	return j.record.write(j.path(finishedDir))
}

// unpack fills a new directory.
func (j *job) unpack(dir string, fill func(*unpacker) error) error {
	u, err := newUnpacker(dir, j.meter)
	if err != nil {
		return err
	}
	return errors.Join(fill(u), u.close())
}

func (j *job) directory(root *os.Root, store string) error {
	image, err := openLayered(root)
	if err != nil {
		return err
	}
	if image != nil {
		return j.layers(image)
	}
	skip, err := os.Stat(store)
	if err != nil {
		return err
	}
	return j.unpack(j.path(finishedDir, rootDir), func(u *unpacker) error { return u.addTree(root, skip) })
}

// archive unpacks what may be a root file system or an image in layers: one knows when it is
// unpacked.
func (j *job) archive(archive io.Reader) error {
	target := j.path(finishedDir, rootDir)
	err := j.unpack(target, func(u *unpacker) (err error) {
		j.record.Digest, _, err = readTar(archive, j.meter, u.add)
		if err == nil && j.meter.entries == 0 {
			err = stacyvm.Invalid("source", "the archive is empty")
		}
		return err
	})
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(target)
	if err != nil {
		return err
	}
	defer root.Close()
	image, err := openLayered(root)
	if err != nil || image == nil {
		return err
	}
	if err := os.Rename(target, j.path(archiveDir)); err != nil { // root goes with it
		return err
	}
	j.meter.content, j.meter.entries, j.meter.left = 0, 0, LeftOut{}
	return j.layers(image)
}

func (j *job) layers(image *layered) error {
	err := j.unpack(j.path(finishedDir, rootDir), func(u *unpacker) error {
		for _, layer := range image.layers {
			if err := u.addLayer(image.root, layer); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	j.record.Digest = image.digest
	return j.configure(image.config.Config)
}

// maxConfig bounds what an image's configuration tells every process, in bytes: a sandbox is told
// at its start.
const maxConfig = 256 << 10

// configure takes over what the image asks for.
func (j *job) configure(config v1.Config) error {
	j.record.User, j.record.Workdir, j.record.Env = config.User, config.WorkingDir, map[string]string{}
	size := len(config.User) + len(config.WorkingDir)
	if strings.ContainsRune(config.User+config.WorkingDir, 0) {
		return stacyvm.Invalid("source", "the image's configuration has a zero byte in its user or working directory")
	}
	for _, setting := range config.Env {
		size += len(setting)
		switch name, value, ok := strings.Cut(setting, "="); {
		case strings.ContainsRune(setting, 0):
			j.meter.left.add(name, "variable with a zero byte")
		case ok && name != "":
			j.record.Env[name] = value
		}
	}
	if size > maxConfig {
		return stacyvm.Errorf(
			stacyvm.CodeTooLarge,
			"the image's environment, user and working directory are over %d KiB",
			maxConfig>>10,
		)
	}
	return nil
}

func sourceError(err error) error {
	problem := "it cannot be read"
	switch {
	case errors.Is(err, fs.ErrNotExist):
		problem = "there is no such file or directory"
	case errors.Is(err, fs.ErrPermission):
		problem = "this user may not read it"
	}
	bad := stacyvm.Invalid("source", "%s", problem)
	bad.Err = err
	return bad
}
