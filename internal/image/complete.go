package image

import "io/fs"

// mountPoints must be there before a sandbox starts.
var mountPoints = map[string]fs.FileMode{
	"dev":       0o755,
	"etc":       0o755,
	"proc":      0o755,
	"root":      0o700,
	"run":       0o755,
	"sys":       0o755,
	"tmp":       0o777 | fs.ModeSticky,
	"workspace": 0o755,
}

// complete adds to an imported root what every sandbox needs, without changing what is there. An
// image that has no users gets those of the built-in image.
func complete(dir string) error {
	t, err := newTree(dir)
	if err != nil {
		return err
	}
	defer t.root.Close()
	t.keep = true
	for name, mode := range mountPoints {
		if isThere(t.root, name) {
			continue
		}
		t.dir(name, mode)
		if name == "workspace" {
			t.own(name, userID)
		}
	}
	if info, err := t.root.Lstat("etc"); err == nil && info.IsDir() && !isThere(t.root, "etc/passwd") {
		t.completeUsers()
	}
	return t.err
}

func (t *tree) completeUsers() {
	shell := "/bin/sh"
	if isThere(t.root, "bin/bash") {
		shell = "/bin/bash"
	}
	t.writeAccounts(shell)
	if !isThere(t.root, "home") {
		t.dir("home", 0o755)
		t.dir("home/user", 0o755)
		t.own("home/user", userID)
	}
}
