// Package node is one machine's part, which a server, a worker process and the tools share: the
// data directory and its locks, the engines, the images, the worker over them and the guard of its
// disk. It knows neither a store nor a control plane.
package node

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Place says where one server keeps what. Programs and images are shared by all servers of a data
// directory.
type Place struct {
	Programs string // unpacked programs, by content
	Images   string
	Worker   string
	Engines  string // one directory per engine
	Database string
}

// SharedPlace is where `serve` keeps things.
func SharedPlace(dataDir, database string) Place {
	return Place{
		Programs: filepath.Join(dataDir, "bin"),
		Images:   filepath.Join(dataDir, "images"),
		Worker:   filepath.Join(dataDir, "worker"),
		Engines:  filepath.Join(dataDir, "engines"),
		Database: database,
	}
}

// PrivatePlace keeps everything but programs and images in a directory of its own.
func PrivatePlace(dataDir, own string) Place {
	p := SharedPlace(own, filepath.Join(own, "stacyvm.db"))
	shared := SharedPlace(dataDir, "")
	p.Programs, p.Images = shared.Programs, shared.Images
	return p
}

// ServeLock is the file that the server or worker process of a data directory has locked.
const ServeLock = "serve.lock"

// MakeDataDir makes the data directory, for its owner alone.
func MakeDataDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return stacyvm.Wrap(stacyvm.CodeInvalid, err, fmt.Sprintf("data_dir: %s cannot be made", dir))
	}
	return nil
}
