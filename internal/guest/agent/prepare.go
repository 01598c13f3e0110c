package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"syscall"
)

// largestHosts bounds what is read of an image's /etc/hosts, in bytes.
const largestHosts = 1 << 20

// prepare makes the sandbox's files agree with the sandbox, before there is a process of the
// guest. What an image has in the way stays as it is: a sandbox that lacks its name is of more use
// than none.
func (a *Agent) prepare() {
	if name, err := os.Hostname(); err == nil && name != "" {
		a.writeNames(name)
	}
	a.giveWorkspace()
}

// writeNames writes /etc/hostname, and what /etc/hosts lacks: localhost and the sandbox's own
// name. There is no network but the loopback, so the name is an address of that.
func (a *Agent) writeNames(name string) {
	a.edit("/etc/hostname", func(file *os.File, _ string) error {
		if err := file.Truncate(0); err != nil {
			return err
		}
		_, err := file.WriteString(name + "\n")
		return err
	})
	a.edit("/etc/hosts", func(file *os.File, content string) error {
		var more strings.Builder
		if content != "" && !strings.HasSuffix(content, "\n") {
			more.WriteByte('\n')
		}
		known := hostNames(content)
		if !slices.Contains(known, "localhost") {
			more.WriteString("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n")
		}
		if !slices.Contains(known, name) {
			fmt.Fprintf(&more, "127.0.0.1\t%s\n", name)
		}
		_, err := file.WriteString(more.String())
		return err
	})
}

// hostNames gives the names that a hosts file has an address for.
func hostNames(content string) (names []string) {
	for line := range strings.Lines(content) {
		line, _, _ = strings.Cut(line, "#")
		if words := strings.Fields(line); len(words) > 1 {
			names = append(names, words[1:]...)
		}
	}
	return names
}

// edit opens a regular file of the image, made when it is missing; what is written goes to its
// end.
func (a *Agent) edit(name string, change func(file *os.File, content string) error) {
	const flags = os.O_RDWR | os.O_CREATE | os.O_APPEND | syscall.O_NONBLOCK | syscall.O_NOCTTY
	file, err := os.OpenFile(a.path(name), flags, 0o644)
	if err != nil {
		return
	}
	defer file.Close()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return
	}
	content, err := io.ReadAll(io.LimitReader(file, largestHosts))
	if err == nil {
		_ = change(file, string(content)) // a full disk
	}
}

// giveWorkspace gives an empty /workspace, where its processes start, to the user that the image
// runs as.
func (a *Agent) giveWorkspace() {
	who, err := a.lookupUser("")
	if err != nil || who.credential() == nil {
		return // whoever runs a command is told
	}
	dir, err := os.OpenFile(a.path(workspace), os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return
	}
	defer dir.Close()
	if _, err := dir.Readdirnames(1); errors.Is(err, io.EOF) {
		_ = dir.Chown(int(who.uid), int(who.gid))
	}
}
