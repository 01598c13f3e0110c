package agent

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestWriteNames: the sandbox's own name and localhost resolve in every image, and what an image
// says of others stays.
func TestWriteNames(t *testing.T) {
	const name, own, local = "sb-1", "127.0.0.1\tsb-1\n", "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	for what, row := range map[string]struct{ has, want string }{
		"nothing":               {"", local + own},
		"localhost":             {"127.0.0.1 localhost\n", "127.0.0.1 localhost\n" + own},
		"others, no end":        {"10.0.0.1 db", "10.0.0.1 db\n" + local + own},
		"everything":            {local + own, local + own},
		"only in a comment":     {"# 127.0.0.1 localhost sb-1\n", "# 127.0.0.1 localhost sb-1\n" + local + own},
		"a name that is longer": {"127.0.0.1 localhost sb-10\n", "127.0.0.1 localhost sb-10\n" + own},
	} {
		h := newHost(t)
		etc := filepath.Join(h.root, "etc")
		must(t, os.Mkdir(etc, 0o755))
		if row.has != "" {
			write(t, etc+"/hosts", row.has, 0o644)
			write(t, etc+"/hostname", "builder.example.org\nand more\n", 0o644)
		}
		h.writeNames(name)
		for file, want := range map[string]string{"hosts": row.want, "hostname": name + "\n"} {
			if got, err := os.ReadFile(filepath.Join(etc, file)); err != nil || string(got) != want {
				t.Errorf("%s: /etc/%s: %q, %v, want %q", what, file, got, err, want)
			}
		}
	}
}

// TestWriteNamesHostile has files in the way that never open, never end or lead elsewhere.
func TestWriteNamesHostile(t *testing.T) {
	for what, hostile := range map[string]func(path string) error{
		"fifo":   func(path string) error { return unix.Mkfifo(path, 0o644) },
		"device": func(path string) error { return os.Symlink("/dev/zero", path) },
		"dir":    func(path string) error { return os.Mkdir(path, 0o755) },
		"loop":   func(path string) error { return os.Symlink(filepath.Base(path), path) },
		"long":   func(path string) error { return os.WriteFile(path, []byte(strings.Repeat("x", 2*largestHosts)), 0o644) },
		"no etc": func(path string) error { return os.RemoveAll(filepath.Dir(path)) },
	} {
		h := newHost(t)
		must(t, os.Mkdir(filepath.Join(h.root, "etc"), 0o755))
		for _, name := range []string{"hosts", "hostname"} {
			must(t, hostile(filepath.Join(h.root, "etc", name)))
		}
		must(t, unix.Mkfifo(filepath.Join(h.root, "workspace"), 0o644))
		h.user = "1"
		h.writeNames("sb-1")
		h.giveWorkspace()
		if info, err := os.Lstat(filepath.Join(h.root, "etc/hosts")); what == "fifo" && (err != nil || info.Mode()&os.ModeNamedPipe == 0) {
			t.Errorf("%s: %v, %v", what, info, err)
		}
	}
}
