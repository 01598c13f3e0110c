package pki

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// Rotate puts a new authority in the place of the active one, which stays beside it and in the
// bundle. Certificates of either are good as long as a machine's bundle holds both: bring the
// bundle to every machine, then issue certificates anew, then Retire. It returns the number of
// authorities in the bundle.
func Rotate(dir string, now time.Time) (trusted int, err error) {
	d, err := openDirectory(dir)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	old, err := d.readAuthority(authorityFile)
	if err != nil {
		return 0, err
	}
	content, err := encode(old.certificate, old.key)
	if err == nil {
		err = d.place("ca-former-"+Serial(old.certificate)+".pem", content, 0o600, true)
	}
	if err != nil {
		return 0, err
	}
	former, err := d.former(now)
	if err != nil {
		return 0, err
	}
	made, err := newAuthority(now)
	if err != nil {
		return 0, stacyvm.Wrap(stacyvm.CodeInternal, err, "the authority could not be made")
	}
	return 1 + len(former), d.install(made, former, true)
}

// Retire ends a rotation: the former authorities are deleted, and the bundle holds the active one
// alone. It can be repeated. CodeConflict: a party's certificate in the directory is of a former
// one and still good, so that its party would be cut off.
func Retire(dir string, now time.Time) (deleted int, err error) {
	d, err := openDirectory(dir)
	if err != nil {
		return 0, err
	}
	defer d.Close()
	active, err := d.readAuthority(authorityFile)
	if err != nil {
		return 0, err
	}
	paths, err := filepath.Glob(d.join(formerFiles))
	if err != nil {
		return 0, unusable(err)
	}
	if err := d.allOf(active, now); err != nil {
		return 0, err
	}
	for _, path := range paths { // before the bundle, which would be made anew from them
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return deleted, unusable(err)
		}
		deleted++
	}
	return deleted, d.writeBundle(active, nil)
}

// allOf refuses when a party has a certificate in the directory that another authority than this
// one signed.
func (d *directory) allOf(active authority, now time.Time) error {
	for _, role := range []Role{RoleServer, RoleWorker} {
		paths, err := filepath.Glob(d.join(Party{role, "*"}.file()))
		if err != nil {
			return unusable(err)
		}
		for _, path := range paths {
			pair, err := readPair(Files{Certificate: path, Key: path})
			if err != nil {
				return unusable(err)
			}
			if now.Before(pair.Leaf.NotAfter) && pair.Leaf.CheckSignatureFrom(active.certificate) != nil {
				return stacyvm.Errorf(
					stacyvm.CodeConflict,
					"%s is of a former authority, and its party would be cut off: issue it anew with --force and copy it first, or delete the file if the party is gone",
					path,
				)
			}
		}
	}
	return nil
}
