package image

import (
	"fmt"
	"os"
	"path"
	"strings"
)

// userID is the user and group id of `user`.
const userID = 1000

// accounts writes the users: root and user, both with locked passwords. Nothing of it comes from
// the host.
func (h hostSource) accounts(t *tree) {
	shell := "/bin/sh"
	if _, err := os.Stat(h.path("bin/bash")); err == nil {
		shell = "/bin/bash"
	}
	t.writeAccounts(shell)
}

// systemUsers are those that programs expect to find, with the ids that distributions agree on;
// nobody logs in as one.
var systemUsers = []struct {
	name     string
	uid, gid int
	home     string
}{
	{
		"daemon",
		1,
		1,
		"/usr/sbin",
	},
	{"bin", 2, 2, "/bin"},
	{"sys", 3, 3, "/dev"},
	{"games", 5, 60, "/usr/games"},
	{"man", 6, 12, "/var/cache/man"},
	{
		"lp",
		7,
		7,
		"/var/spool/lpd",
	},
	{"mail", 8, 8, "/var/mail"},
	{"news", 9, 9, "/var/spool/news"},
	{"uucp", 10, 10, "/var/spool/uucp"},
	{
		"proxy",
		13,
		13,
		"/bin",
	},
	{"www-data", 33, 33, "/var/www"},
	{"backup", 34, 34, "/var/backups"},
	{"list", 38, 38, "/var/list"},
	{"irc", 39, 39, "/run/ircd"},
	{"_apt", 42, 65534, "/nonexistent"},
	{"nobody", 65534, 65534, "/nonexistent"},
}

// systemGroups are the usual ones, without members.
var systemGroups = []struct {
	name string
	gid  int
}{
	{
		"root",
		0,
	},
	{"daemon", 1},
	{"bin", 2},
	{"sys", 3},
	{"adm", 4},
	{"tty", 5},
	{"disk", 6},
	{"lp", 7},
	{"mail", 8},
	{"news", 9},
	{"uucp", 10},
	{
		"man",
		12,
	},
	{"proxy", 13},
	{"kmem", 15},
	{"dialout", 20},
	{"fax", 21},
	{"voice", 22},
	{"cdrom", 24},
	{"floppy", 25},
	{"tape", 26},
	{
		"sudo",
		27,
	},
	{"audio", 29},
	{"dip", 30},
	{"www-data", 33},
	{"backup", 34},
	{"operator", 37},
	{"list", 38},
	{"irc", 39},
	{"src", 40},
	{
		"shadow",
		42,
	},
	{"utmp", 43},
	{"video", 44},
	{"sasl", 45},
	{"plugdev", 46},
	{"staff", 50},
	{"games", 60},
	{"users", 100},
	{"user", userID},
	{"nogroup", 65534},
}

// writeAccounts writes passwd and what belongs to it.
func (t *tree) writeAccounts(shell string) {
	const locked = ":*:19000:0:99999:7:::\n"
	passwd := fmt.Appendf(nil, "root:x:0:0:root:/root:%s\n", shell)
	shadow := []byte("root" + locked)
	for _, u := range systemUsers {
		passwd = fmt.Appendf(
			passwd,
			"%[1]s:x:%[2]d:%[3]d:%[1]s:%[4]s:/usr/sbin/nologin\n",
			u.name,
			u.uid,
			u.gid,
			u.home,
		)
		shadow = append(shadow, u.name+locked...)
	}
	passwd = fmt.Appendf(passwd, "user:x:%[2]d:%[2]d:user:/home/user:%[1]s\n", shell, userID)
	shadow = append(shadow, "user"+locked...)
	var group, gshadow []byte
	for _, g := range systemGroups {
		group = fmt.Appendf(group, "%s:x:%d:\n", g.name, g.gid)
		gshadow = append(gshadow, g.name+":*::\n"...)
	}
	t.file("etc/passwd", 0o644, passwd)
	t.file("etc/group", 0o644, group)
	t.file("etc/shadow", 0o600, shadow)
	t.file("etc/gshadow", 0o600, gshadow)
}

// settings are the files of /etc that hold the same on every machine.
var settings = map[string]string{
	"etc/environment":   "",
	"etc/fstab":         "",
	"etc/host.conf":     "multi on\n",
	"etc/ld.so.conf":    "include /etc/ld.so.conf.d/*.conf\n",
	"etc/pam.d/other":   "auth required pam_deny.so\naccount required pam_deny.so\npassword required pam_deny.so\nsession required pam_deny.so\n",
	"etc/pam.d/runuser": rootMay,
	"etc/pam.d/su":      rootMay,
	"etc/pam.d/su-l":    rootMay,
	"etc/nsswitch.conf": "passwd: files\ngroup: files\nshadow: files\nhosts: files\nnetworks: files\nprotocols: files\nservices: files\nethers: files\nrpc: files\n",
	"etc/profile":       profile,
	"etc/resolv.conf":   "",
	"etc/timezone":      "Etc/UTC\n",
}

// rootMay lets root become another user, and nobody else: there are no passwords.
const rootMay = "auth required pam_rootok.so\naccount required pam_permit.so\nsession required pam_permit.so\n"

const profile = `# sh and bash read this in a login shell
if [ "$(id -u)" = 0 ]; then
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
else
  PATH=/usr/local/bin:/usr/bin:/bin
fi
export PATH
if [ -n "$BASH_VERSION" ] && [ -n "$PS1" ] && [ -r /etc/bash.bashrc ]; then
  . /etc/bash.bashrc
fi
`

// settings writes them, and the few that only say which programs and libraries the host's /usr
// has.
func (h hostSource) settings(t *tree) {
	for name, content := range settings {
		t.file(name, 0o644, []byte(content))
	}
	t.dir("etc/skel", 0o755)
	t.link("/proc/self/mounts", "etc/mtab")
	if _, err := os.Stat(h.path("usr/share/zoneinfo/Etc/UTC")); err == nil {
		t.link("/usr/share/zoneinfo/Etc/UTC", "etc/localtime")
	}
	if _, err := os.Stat(h.path("usr/lib/os-release")); err == nil {
		t.link("../usr/lib/os-release", "etc/os-release")
	} else if content, err := h.read("etc/os-release"); err == nil {
		t.file("etc/os-release", 0o644, content)
	}
	if cache, err := h.read("etc/ld.so.cache"); err == nil {
		// where the dynamic loader finds libraries that lie in no usual directory
		t.file("etc/ld.so.cache", 0o644, cache)
	}
	var shells strings.Builder
	for _, name := range []string{"bin/sh", "bin/bash", "bin/dash", "usr/bin/zsh", "usr/bin/fish"} {
		if _, err := os.Stat(h.path(name)); err == nil {
			shells.WriteString("/" + name + "\n")
		}
	}
	t.file("etc/shells", 0o644, []byte(shells.String()))
}

// alternatives repeats the links by which the package system chooses between programs of one
// purpose.
func (h hostSource) alternatives(t *tree) {
	entries, err := os.ReadDir(h.path("etc/alternatives"))
	if err != nil {
		return // another distribution
	}
	for _, entry := range entries {
		to, err := os.Readlink(h.path(path.Join("etc/alternatives", entry.Name())))
		if err == nil && isPackaged(to) {
			t.link(to, "etc/alternatives/"+entry.Name())
		}
	}
}

// isPackaged tells whether an absolute path lies in a directory that the sandbox sees.
func isPackaged(name string) bool {
	if !path.IsAbs(name) || path.Clean(name) != name {
		return false
	}
	for _, view := range rootViews {
		if strings.HasPrefix(name, "/"+view+"/") {
			return true
		}
	}
	for _, view := range usrViews {
		if strings.HasPrefix(name, "/usr/"+view+"/") {
			return true
		}
	}
	return false
}
