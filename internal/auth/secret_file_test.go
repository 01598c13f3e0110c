package auth_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/internal/auth"
)

// clock is one that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) read() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(by time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(by)
}

// replaceFile replaces a private file as a careful program would, and gives it a time.
func replaceFile(t *testing.T, path, text string, changed time.Time) {
	t.Helper()
	beside := path + ".new"
	if err := errors.Join(os.WriteFile(beside, []byte(text), 0o600), os.Chtimes(beside, changed, changed), os.Rename(beside, path)); err != nil {
		t.Fatal(err)
	}
}

func TestSecretFile(t *testing.T) {
	clock := &clock{now: noon}
	path := filepath.Join(t.TempDir(), "secret")
	replaceFile(t, path, " one \n", noon)
	var failures []string
	file, err := auth.OpenSecretFile(path, auth.SecretFileOptions{
		Now: clock.read, Failed: func(err error) { failures = append(failures, err.Error()) },
		Check: func(text string) error {
			if strings.Contains(text, "bad") {
				return errors.New("is bad")
			}
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	inPlace := func(text string, mode os.FileMode) func() {
		return func() {
			if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte(text), 0o600), os.Chtimes(path, noon, noon), os.Chmod(path, mode)); err != nil {
				t.Fatal(err)
			}
		}
	}
	remove := func() {
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
	}
	for _, step := range []struct {
		name     string
		change   func()
		after    time.Duration
		want     string
		failures int
	}{
		{"at first", func() {}, 0, "one", 0},
		{"too early to look", func() { replaceFile(t, path, "two", noon) }, auth.SecretLook - 1, "one", 0},
		{"replaced", func() {}, 1, "two", 0},
		{"same size and time, in place", inPlace("TWO", 0o600), auth.SecretLook, "two", 0},
		{"read anyway after a while", func() {}, 30 * time.Second, "TWO", 0},
		{"readable by others", inPlace("three", 0o640), auth.SecretLook, "TWO", 1},
		{"the same fault is told once", func() {}, auth.SecretLook, "TWO", 1},
		{"private again", inPlace("three", 0o600), auth.SecretLook, "three", 1},
		{"refused", inPlace("bad text", 0o600), auth.SecretLook, "three", 2},
		{"empty", inPlace(" \n", 0o600), auth.SecretLook, "three", 3},
		{"too long", inPlace(strings.Repeat("x", 65<<10), 0o600), auth.SecretLook, "three", 4},
		{"missing", remove, auth.SecretLook, "three", 5},
		{"a directory", func() {
			if err := os.Mkdir(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}, auth.SecretLook, "three", 6},
		{"back", func() { remove(); replaceFile(t, path, "four", noon) }, auth.SecretLook, "four", 6},
		{"a clock that goes back", func() { replaceFile(t, path, "five", noon) }, -time.Hour, "five", 6},
	} {
		step.change()
		clock.advance(step.after)
		if got := file.Text(); got != step.want || len(failures) != step.failures {
			t.Errorf("%s: %q, want %q; failures %q", step.name, got, step.want, failures)
		}
	}
	for _, failure := range failures {
		if strings.Contains(failure, "three") || strings.Contains(failure, "bad text") {
			t.Errorf("the failure tells the secret: %s", failure)
		}
	}
}

func TestSecretFileMustBeGoodAtFirst(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) {
		if err := errors.Join(os.WriteFile(filepath.Join(dir, name), []byte(text), mode), os.Chmod(filepath.Join(dir, name), mode)); err != nil {
			t.Fatal(err)
		}
	}
	write("empty", "", 0o600)
	write("group", "x", 0o640)
	write("world", "x", 0o604)
	for _, name := range []string{"empty", "group", "world", "absent", "."} {
		if _, err := auth.OpenSecretFile(filepath.Join(dir, name), auth.SecretFileOptions{}); err == nil {
			t.Errorf("%s: is taken", name)
		}
	}
	if _, err := auth.OpenSecretFile("/dev/null", auth.SecretFileOptions{}); err == nil {
		t.Error("a device is taken")
	}
}
