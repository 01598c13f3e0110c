package auth

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/stacyvm/stacyvm/internal/pki"
)

const (
	// maxSecret bounds a secret's file, in bytes.
	maxSecret = 64 << 10
	// SecretLook is how often a SecretFile looks whether its file changed, at most.
	SecretLook = time.Second
	// secretRead is after how long the file is read whatever its times say: some file systems tell them coarsely.
	secretRead = 30 * time.Second
)

// SecretFileOptions are of OpenSecretFile; the zero value will do.
type SecretFileOptions struct {
	// Check refuses a text: the one before it stays. nil takes any.
	Check func(text string) error
	// Failed hears of it when the file can no longer be read or its text is refused, once per reason. It must not call the
	// SecretFile back.
	Failed func(error)
	Now    func() time.Time // nil: time.Now
}

// SecretFile is a secret in a file that may be replaced while the program runs. A file that is missing, empty, readable by
// others or refused leaves the last good text in place: half a rotation must not lock everybody out. It is safe for
// concurrent use.
type SecretFile struct {
	path    string
	options SecretFileOptions

	mu     sync.Mutex
	text   string
	seen   fs.FileInfo
	looked time.Time
	read   time.Time
	failed string
}

// OpenSecretFile reads the file for the first time. Its errors name the path, for who started the program.
func OpenSecretFile(path string, options SecretFileOptions) (*SecretFile, error) {
	if options.Now == nil {
		options.Now = time.Now
	}
	f := &SecretFile{path: path, options: options}
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", path)
	}
	return f, f.load(info, options.Now())
}

// Text gives the present text. It is a Secret.
func (f *SecretFile) Text() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now := f.options.Now(); now.Sub(f.looked) >= SecretLook || now.Before(f.looked) {
		f.tell(f.refresh(now))
	}
	return f.text
}

func (f *SecretFile) refresh(now time.Time) error {
	f.looked = now
	info, err := os.Stat(f.path)
	if err != nil {
		return err
	}
	if sameFile(info, f.seen) && now.Sub(f.read) < secretRead && !now.Before(f.read) {
		return nil
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", f.path)
	}
	return f.load(info, now)
}

func (f *SecretFile) load(info fs.FileInfo, now time.Time) error {
	text, err := ReadSecretFile(f.path)
	if err != nil {
		return err
	}
	if f.options.Check != nil {
		if err := f.options.Check(text); err != nil {
			return fmt.Errorf("%s %w", f.path, err)
		}
	}
	f.text, f.seen, f.read, f.looked = text, info, now, now
	return nil
}

func (f *SecretFile) tell(err error) {
	reason := ""
	if err != nil {
		reason = err.Error()
	}
	if reason != f.failed && err != nil && f.options.Failed != nil {
		f.options.Failed(err)
	}
	f.failed = reason
}

func sameFile(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && a.Mode() == b.Mode()
}

// ReadSecretFile reads a secret once, also from a pipe. A regular file must be its owner's alone. White space around the
// secret is left out.
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
