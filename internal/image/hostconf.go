package image

import (
	"bufio"
	"crypto/md5"
	"encoding/hex"
	"os"
	"path"
	"strings"
)

// conffiles are the configuration files of packages that programs do not work well without. A name
// that ends in a slash or a dash stands for everything that begins so.
var conffiles = []string{
	"etc/ImageMagick-",
	"etc/X11/rgb.txt",
	"etc/bash.bashrc",
	"etc/debian_version",
	"etc/ethertypes",
	"etc/fonts/",
	"etc/gai.conf",
	"etc/groff/",
	"etc/inputrc",
	"etc/java-",
	"etc/ld.so.conf.d/",
	"etc/locale.alias",
	"etc/login.defs",
	"etc/magic",
	"etc/magic.mime",
	"etc/maven/",
	"etc/mime.types",
	"etc/perl/",
	"etc/protocols",
	"etc/python2.7/",
	"etc/python3/",
	"etc/python3.",
	"etc/rpc",
	"etc/services",
	"etc/ssl/openssl.cnf",
	"etc/terminfo/",
	"etc/vim/",
	"etc/wgetrc",
	"etc/xattr.conf",
}

// conffiles copies them as far as they are exactly what their package installed, by the package
// system's own checksums: what somebody wrote into a file of this machine stays on this machine.
func (h hostSource) conffiles(t *tree) {
	status, err := os.Open(h.path("var/lib/dpkg/status"))
	if err != nil {
		return // another distribution: programs use their built-in defaults
	}
	defer status.Close()
	root, err := os.OpenRoot(h.base)
	if err != nil {
		t.err = err
		return
	}
	defer root.Close()
	lines := bufio.NewScanner(status)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		name, sum, ok := conffileLine(lines.Text())
		if !ok || !isWanted(name) {
			continue
		}
		if content, ok := unmodified(root, name, sum); ok {
			t.file(name, 0o644, content)
		}
	}
	t.do("package list", lines.Err)
}

// conffileLine reads " /etc/name md5"; a line with further words tells of a file that the package
// no longer has.
func conffileLine(line string) (name, sum string, ok bool) {
	if !strings.HasPrefix(line, " /etc/") {
		return "", "", false
	}
	words := strings.Fields(line)
	if len(words) != 2 || path.Clean(words[0]) != words[0] {
		return "", "", false
	}
	return strings.TrimPrefix(words[0], "/"), words[1], true
}

func isWanted(name string) bool {
	for _, wanted := range conffiles {
		if name == wanted {
			return true
		}
		if last := wanted[len(wanted)-1]; (last == '/' || last == '-' || last == '.') &&
			strings.HasPrefix(name, wanted) {
			return true
		}
	}
	return false
}

func unmodified(root *os.Root, name, sum string) ([]byte, bool) {
	info, err := root.Lstat(name)
	if err != nil || !info.Mode().IsRegular() || info.Size() > maxHostFile {
		return nil, false
	}
	content, err := root.ReadFile(name)
	if err != nil {
		return nil, false
	}
	have := md5.Sum(content) // what dpkg itself uses
	return content, hex.EncodeToString(have[:]) == sum
}
