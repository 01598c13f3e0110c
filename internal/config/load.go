package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/stacyvm/stacyvm/internal/pki"
)

// maxFile bounds a configuration file, maxSecret a secret's.
const (
	maxFile   = 1 << 20
	maxSecret = 64 << 10
)

// Where values come from.
const (
	fromDefault     = "default"
	fromFile        = "file"
	fromEnvironment = "environment"
	fromSecretFile  = "secret file"
)

// Loaded is a configuration with where it came from.
type Loaded struct {
	Config
	File string // the file that was read; "" without one
	// Sources says of each key whether its value is the "default", from the "file", the
	// "environment" or a "secret file".
	Sources map[string]string
}

// Load reads the configuration that a server is to run with: Read, and then a refusal of what
// would be unsafe or cannot work in this build. Errors name the key, and in a file the line; they
// hold no secret.
func Load(path string) (Loaded, error) {
	loaded, err := Read(path)
	if err != nil {
		return loaded, err
	}
	return loaded, hideIn(loaded.refuse())
}

// Read reads the file at path, or the one that is found when path is empty, and applies the
// environment and the secret files. It refuses what has no meaning, as Load does, and leaves
// judgement to Lint.
func Read(path string) (Loaded, error) {
	loaded, err := read(path)
	return loaded, hideIn(err)
}

func read(path string) (Loaded, error) {
	loaded := Loaded{Config: Default(), Sources: map[string]string{}}
	for _, k := range keys(&loaded.Config) {
		loaded.Sources[k.name] = fromDefault
	}
	file, err := find(path)
	if err != nil {
		return loaded, err
	}
	if file != "" {
		if err := loaded.readFile(file); err != nil {
			return loaded, err
		}
	}
	if err := loaded.readEnvironment(); err != nil {
		return loaded, err
	}
	if err := loaded.readSecrets(); err != nil {
		return loaded, err
	}
	return loaded, loaded.check()
}

// systemFile is the configuration of the services, and of root's command line. Others cannot read
// the files that it names.
const systemFile = "/etc/stacyvm/stacyvm.yaml"

// find gives the configuration file's path: the one that was named, stacyvm.yaml in the working
// directory, ~/.stacyvm/config.yaml, for root the system's, or none.
func find(named string) (string, error) {
	if named == "" {
		named = os.Getenv("STACYVM_CONFIG")
	}
	if named != "" {
		return named, nil
	}
	candidates := []string{"stacyvm.yaml"}
	if home, err := os.UserHomeDir(); err == nil {
		candidates = append(candidates, filepath.Join(home, ".stacyvm", "config.yaml"))
	}
	if os.Geteuid() == 0 {
		candidates = append(candidates, systemFile)
	}
	for _, candidate := range candidates {
		_, err := os.Stat(candidate)
		if err == nil {
			return candidate, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("configuration: %w", err)
		}
	}
	return "", nil
}

func (l *Loaded) readEnvironment() error {
	for _, k := range keys(&l.Config) {
		text, ok := os.LookupEnv(k.env())
		if !ok || text == "" {
			continue
		}
		if err := k.set(text); err != nil {
			return fmt.Errorf("%s: %w", k.env(), err)
		}
		l.Sources[k.name] = fromEnvironment
	}
	return nil
}

// readSecrets fills each secret whose file is named.
func (l *Loaded) readSecrets() error {
	all := keys(&l.Config)
	files := map[string]string{}
	for _, k := range all {
		if name, ok := strings.CutSuffix(k.name, "_file"); ok {
			files[name] = k.field.String()
		}
	}
	for _, k := range all {
		path := files[k.name]
		if k.secret == open || path == "" {
			continue
		}
		if k.field.String() != "" {
			return fmt.Errorf("%s and %s_file: only one of them may be set", k.name, k.name)
		}
		text, err := readSecret(path, k.secret)
		if err != nil {
			return fmt.Errorf("%s_file: %w", k.name, err)
		}
		k.field.SetString(text)
		l.Sources[k.name] = fromSecretFile
	}
	return nil
}

// readSecret reads a file that, unless what it holds is public, only its owner may read.
func readSecret(path string, secret secrecy) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if secret == hidden {
		if err := pki.CheckPrivate(path, info); err != nil {
			return "", err
		}
	}
	content, err := readBounded(path, maxSecret)
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(string(content))
	if text == "" {
		return "", fmt.Errorf("%s is empty", path)
	}
	return text, nil
}

func readBounded(path string, limit int64) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, limit+1))
	if err == nil && int64(len(content)) > limit {
		err = fmt.Errorf("%s is over %d bytes", path, limit)
	}
	return content, err
}
