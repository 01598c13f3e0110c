package pki

import (
	"os"
	"path/filepath"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// ServerFiles are a control plane's files in a directory: the first of the names that has a
// certificate there, else the only control plane's. CodeInvalid: there is none, or more than one
// and none of these names.
func ServerFiles(dir string, names ...string) (Files, error) {
	found, err := filepath.Glob(filepath.Join(dir, Party{RoleServer, "*"}.file()))
	if err != nil {
		return Files{}, unusable(err)
	}
	files := Files{Authorities: filepath.Join(dir, bundleFile)}
	for _, name := range names {
		files.Certificate = filepath.Join(dir, Party{RoleServer, name}.file())
		if _, err := os.Stat(files.Certificate); name != "" && err == nil {
			return files, nil
		}
	}
	switch len(found) {
	case 0:
		return Files{}, stacyvm.Errorf(
			stacyvm.CodeInvalid,
			"there is no control plane's certificate in %s: make it with `stacyvm pki issue %s --server HOST`",
			dir,
			dir,
		)
	case 1:
		files.Certificate = found[0]
		return files, nil
	}
	return Files{}, stacyvm.Errorf(
		stacyvm.CodeInvalid,
		"there are certificates of several control planes in %s: keep this machine's alone there, or say in server.url under which of the names it is reached",
		dir,
	)
}
