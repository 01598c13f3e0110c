package image

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// record is what image.json says of an imported image.
type record struct {
	Name      string            `json:"name"`
	Digest    string            `json:"digest,omitempty"`
	Bytes     int64             `json:"bytes"`
	CreatedAt time.Time         `json:"created_at"`
	Env       map[string]string `json:"env,omitempty"`
	Workdir   string            `json:"workdir,omitempty"`
	User      string            `json:"user,omitempty"`
}

// directoryOf is where the image of that name is: names may be longer than a file name, and hold
// slashes.
func directoryOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return imagePrefix + hex.EncodeToString(sum[:16])
}

func (s *Store) readRecord(dir string) (record, error) {
	raw, err := os.ReadFile(s.path(dir, recordFile))
	if err != nil {
		return record{}, err
	}
	var found record
	err = json.Unmarshal(raw, &found)
	return found, err
}

// write stores the record in a directory that is not published yet.
func (r record) write(dir string) error {
	raw, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return writeSynced(filepath.Join(dir, recordFile), raw)
}

func (r record) image(uses int) Image {
	return Image{Name: r.Name, Digest: r.Digest, Bytes: r.Bytes, CreatedAt: r.CreatedAt, InUse: uses}
}

// records reads all of them. One that was removed meanwhile is left out.
func (s *Store) records() (map[string]record, error) {
	paths, err := filepath.Glob(s.path(imagePrefix + "*"))
	if err != nil {
		return nil, err
	}
	all := make(map[string]record, len(paths))
	for _, path := range paths {
		dir := filepath.Base(path)
		found, err := s.readRecord(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return nil, ioError(err, "the list of images cannot be read")
		}
		all[dir] = found
	}
	return all, nil
}

func writeSynced(path string, content []byte) (err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := bytes.NewReader(content).WriteTo(file); err != nil {
		return err
	}
	return file.Sync()
}
