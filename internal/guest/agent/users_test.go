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

	"github.com/stacyvm/stacyvm/internal/guest"
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
	open(t, h.root)
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

// TestImageUser: what an image asks for counts where a request names nobody.
func TestImageUser(t *testing.T) {
	h := newHost(t)
	h.etc(t, "root:x:0:0::/root:/bin/sh\napp:x:1001:1002::/home/app:/bin/sh\n", "root:x:0:\napp:x:1002:\nextra:x:1500:app\nbad:x:nan:\n7:x:70:\n")
	app := user{name: "app", home: "/home/app", uid: 1001, gid: 1002}
	in := func(u user, gid uint32, groups ...uint32) user { u.gid, u.groups = gid, groups; return u }
	for text, want := range map[string]user{
		"":           root,
		"root":       root,
		"0:0":        root,
		"root:root":  root,
		"0:extra":    in(root, 1500),
		":extra":     in(root, 1500),
		"app":        in(app, 1002, 1500),
		"app:":       in(app, 1002, 1500),
		"1001":       in(app, 1002, 1500),
		"1001:1002":  app,
		"app:app":    app,
		"app:extra":  in(app, 1500),
		"1001:extra": in(app, 1500),
		"app:7":      in(app, 70), // a name before a number
		"4321:4321":  {name: "4321", home: "/", uid: 4321, gid: 4321},
		"4321:extra": {name: "4321", home: "/", uid: 4321, gid: 1500},
	} {
		h.user = imageUser(text)
		got, err := h.lookupUser("")
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%q: got %v, %v, want %v", text, got, err, want)
		}
		if got, err := h.lookupUser("root"); err != nil || fmt.Sprint(got) != fmt.Sprint(root) {
			t.Errorf("%q, and a request for root: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"nobody-here", "app:none", "app:bad"} {
		h.user = imageUser(text)
		if got, err := h.lookupUser(""); err == nil {
			t.Errorf("%q: got %v", text, got)
		}
	}
}

// TestImageThatIsNotRoot: processes, and what the file service makes, belong to the image's user.
func TestImageThatIsNotRoot(t *testing.T) {
	testneed.Root(t, "become another user")
	h := newHost(t, func(_ *Config, boot *guest.Boot) { boot.User, boot.Workdir = "app", "srv/app" })
	open(t, h.root)
	h.etc(t, "app:x:1001:1002::/home/app:/bin/sh\n", "extra:x:1500:app\n")
	for _, dir := range []string{"workspace", "tmp"} {
		if err := os.Mkdir(filepath.Join(h.root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.giveWorkspace()
	r := h.run(t, &guestv1.StartRequest{Argv: shell("id -u; id -G; pwd; touch made && stat -c %u:%g made .")})
	if want := "1001\n1002 1500\n" + h.root + "/srv/app\n1001:1002\n1001:1002\n"; string(r.stdout) != want {
		t.Errorf("got %q, %q, want %q", r.stdout, r.stderr, want)
	}
	if r := h.run(t, &guestv1.StartRequest{Argv: shell("id -u; pwd"), User: "root", Workdir: "/workspace"}); string(r.stdout) != "0\n"+h.root+"/workspace\n" {
		t.Errorf("a request for root in /workspace: %q", r.stdout)
	}
	files, _, _ := serveFiles(t, newFileService(h.root, h.user))
	put(t, files, "/new/file", 0, "x")
	must(t, files.MakeDir(t.Context(), "/made/too", 0))
	must(t, files.MoveFile(t.Context(), "/new/file", "/moved/there"))
	if _, err := files.WriteFile(t.Context(), "/tmp/roots", 0, "root", strings.NewReader("x")); err != nil {
		t.Error(err)
	}
	for name, want := range map[string]uint32{"workspace": 1001, "new": 1001, "made": 1001, "made/too": 1001, "moved": 1001, "moved/there": 1001, "tmp": 0, "tmp/roots": 0} {
		var stat unix.Stat_t
		if err := unix.Lstat(filepath.Join(h.root, name), &stat); err != nil || stat.Uid != want {
			t.Errorf("%s belongs to %d, %v", name, stat.Uid, err)
		}
	}
}

// open lets every user into the test's private directories.
func open(t *testing.T, dir string) {
	t.Helper()
	for ; dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode()&0o001 != 0 {
			continue
		}
		must(t, os.Chmod(dir, 0o755))
	}
}
