package agent

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/testneed"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

// etc gives the sandbox its own users.
func (h *host) etc(t *testing.T, passwd, group string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(h.root, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(h.root, "etc/passwd"), passwd, 0o644)
	write(t, filepath.Join(h.root, "etc/group"), group, 0o644)
}

func TestLookupUser(t *testing.T) {
	h := newHost(t)
	h.etc(t, strings.Join([]string{
		"broken", "bad:x:nan:1::/:", "minus:x:4294967295:1::/:",
		"root:x:0:0:root:/root:/bin/sh", "user:x:1000:1001::/home/user:/bin/sh", "1234:x:7:8::/odd:/bin/sh",
	}, "\n"), "staff:x:50:other,user\nuser:x:1001:user\nempty:x:51:\nbroken:x\nbad:x:nan:user\n")
	for text, want := range map[string]user{
		"":          root,
		"root":      root,
		"0":         root,
		"user":      {name: "user", home: "/home/user", uid: 1000, gid: 1001, groups: []uint32{50}},
		"1000":      {name: "user", home: "/home/user", uid: 1000, gid: 1001, groups: []uint32{50}},
		"1000:7":    {name: "user", home: "/home/user", uid: 1000, gid: 7},
		"user:0":    {name: "user", home: "/home/user", uid: 1000, gid: 0},
		"1234":      {name: "1234", home: "/odd", uid: 7, gid: 8},
		"5000":      {name: "5000", home: "/", uid: 5000, gid: 5000},
		"5000:6000": {name: "5000", home: "/", uid: 5000, gid: 6000},
	} {
		got, err := h.lookupUser(text)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"nobody-here", "minus", "bad", "4294967295", "-1", "1000:x", "1000:-1", "user:", ":0"} {
		if got, err := h.lookupUser(text); err == nil {
			t.Errorf("%q: got %v", text, got)
		}
	}
}

// TestHostileUsers has files that would never end or never open.
func TestHostileUsers(t *testing.T) {
	h := newHost(t)
	h.etc(t, "", "")
	for name, hostile := range map[string]func(path string) error{
		"fifo":   func(path string) error { return unix.Mkfifo(path, 0o644) },
		"device": func(path string) error { return os.Symlink("/dev/zero", path) },
		"dir":    func(path string) error { return os.Mkdir(path, 0o755) },
		"loop":   func(path string) error { return os.Symlink("passwd", path) },
		"long": func(path string) error {
			return os.WriteFile(path, bytes.Repeat([]byte("x:"), largestUsers), 0o644)
		},
	} {
		path := filepath.Join(h.root, "etc/passwd")
		if err := os.RemoveAll(path); err != nil {
			t.Fatal(err)
		}
		if err := hostile(path); err != nil {
			t.Fatal(err)
		}
		if got, err := h.lookupUser("user"); err == nil {
			t.Errorf("%s: got %v", name, got)
		}
	}
}

func TestRunAsUser(t *testing.T) {
	testneed.Root(t, "become another user")
	h := newHost(t)
	for dir := h.root; dir != "/"; dir = filepath.Dir(dir) { // the test's directories are private
		if info, err := os.Stat(dir); err != nil || info.Mode()&0o001 != 0 {
			continue
		}
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.etc(t, "user:x:1000:1001::/home/user:/bin/sh\n", "staff:x:50:user\n")
	r := h.run(t, &guestv1.StartRequest{Argv: shell("id -u; id -g; id -G; echo $USER $HOME; touch made; ls -n made"), User: "user", Workdir: "/workspace/mine"})
	lines := strings.Split(string(r.stdout), "\n")
	if len(lines) < 5 || !slices.Equal(lines[:4], []string{"1000", "1001", "1001 50", "user " + h.root + "/home/user"}) || !strings.Contains(lines[4], " 1000 1001 ") {
		t.Errorf("got %q, %q, %v", r.stdout, r.stderr, r.exit)
	}
	if r := h.run(t, &guestv1.StartRequest{Argv: []string{"true"}, User: "nobody-here"}); r.exit.Code != 126 || r.exit.Error == "" {
		t.Errorf("exit %v", r.exit)
	}
	w := h.watch(t, &guestv1.StartRequest{Argv: shell("id -u; echo > /dev/tty; stty size"), User: "1000", Terminal: &guestv1.Terminal{Rows: 10, Cols: 20}})
	if exit := w.untilExit(); exit.Code != 0 || string(w.stdout) != "1000\r\n\r\n10 20\r\n" {
		t.Errorf("on a terminal: %q, %v", w.stdout, exit)
	}
	if err := h.signal(t, h.begin(t, &guestv1.StartRequest{Argv: []string{"sleep", "1000"}, User: "1000"}).Id, 15); err != nil {
		t.Error(err)
	}
}
