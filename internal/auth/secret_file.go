package auth

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/stacyvm/stacyvm/internal/pki"
	"github.com/stacyvm/stacyvm/internal/reload"
)

// maxSecret bounds a secret's file, in bytes.
const maxSecret = 64 << 10

// SecretLook is how often a SecretFile looks whether its file changed, at most.
const SecretLook = reload.Look

// SecretFileOptions are of OpenSecretFile; the zero value will do.
type SecretFileOptions struct {
	// Check refuses a text: the one before it stays. nil takes any.
	Check func(text string) error
	// Failed hears of it when the file can no longer be read or its text is refused, once per
	// reason. It must not call the SecretFile back.
	Failed func(error)
	Now    func() time.Time // nil: time.Now
}

// SecretFile is a secret in a file that may be replaced while the program runs. A file that is
// missing, empty, readable by others or refused leaves the last good text in place: half a
// rotation must not lock everybody out. It is safe for concurrent use.
type SecretFile struct{ value *reload.Value[string] }

// OpenSecretFile reads the file for the first time. Its errors name the path, for who started the
// program.
func OpenSecretFile(path string, options SecretFileOptions) (*SecretFile, error) {
	load := func() (string, error) {
		text, err := ReadSecretFile(path)
		if err == nil && options.Check != nil {
			if err = options.Check(text); err != nil {
				err = fmt.Errorf("%s %w", path, err)
			}
		}
		return text, err
	}
	value, err := reload.Open(reload.Config[string]{
		Paths: []string{path}, Load: load, Failed: options.Failed, Now: options.Now,
	})
	if err != nil {
		return nil, err
	}
	return &SecretFile{value}, nil
}

// Text gives the present text. It is a Secret.
func (f *SecretFile) Text() string { return f.value.Get() }

// ReadSecretFile reads a secret once, also from a pipe. A regular file must be its owner's alone.
// White space around the secret is left out.
func ReadSecretFile(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.IsDir() {
		return "", fmt.Errorf("%s is a directory", path)
	}
	if info.Mode().IsRegular() {
		if err := pki.CheckPrivate(path, info); err != nil {
			return "", err
		}
	}
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxSecret+1))
	text := strings.TrimSpace(string(content))
	switch {
	case err != nil:
		return "", err
	case len(content) > maxSecret:
		return "", fmt.Errorf("%s is over %d bytes", path, maxSecret)
	case text == "":
		return "", fmt.Errorf("%s is empty", path)
	}
	return text, nil
}
