package acceptance

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// tree describes what is below a directory: path, kind and mode, content.
func tree(t *testing.T, dir string) (lines []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == dir {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		var content []byte
		if info.Mode().IsRegular() {
			if content, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			to, err := os.Readlink(path)
			if content = []byte(to); err != nil {
				return err
			}
		}
		lines = append(lines, fmt.Sprintf("%q %v %q", strings.TrimPrefix(path, dir+"/"), info.Mode(), content))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines
}

// plant makes a tree that is hard to copy.
func (r *rig) plant(dir string) {
	r.t.Helper()
	for name, mode := range map[string]os.FileMode{
		"plain": 0o644, "script": 0o755, "secret": 0o600, "read only": 0o444, "new\nline": 0o640, "ünïcode ☃": 0o644, "-dash": 0o644,
		"empty": 0o644, "sub/deep/er/file": 0o644, "..almost": 0o644, "percent%2Fslash?&#+": 0o644, "quote'\"`$": 0o644,
	} {
		content := name
		if name == "empty" {
			content = ""
		}
		r.write(filepath.Join(dir, name), content, mode)
	}
	for name, mode := range map[string]os.FileMode{"empty dir": 0o755, "private": 0o700, "group": 0o750} {
		if err := os.Mkdir(filepath.Join(r.path(dir), name), mode); err != nil {
			r.t.Fatal(err)
		}
	}
	for link, to := range map[string]string{"link": "/etc/passwd", "sub/up": "../plain", "dangling": "no\nwhere", "dir link": "sub"} {
		if err := os.Symlink(to, filepath.Join(r.path(dir), link)); err != nil {
			r.t.Fatal(err)
		}
	}
}

func TestCopyDirectories(t *testing.T) {
	r := newRig(t).serve()
	sandbox := r.sandbox()
	r.plant("source")
	want := tree(t, r.path("source"))
	r.must(r.shell("mkfifo source/pipe"))
	if err := os.Symlink("source", r.path("to source")); err != nil {
		t.Fatal(err)
	}
	there := sandbox + ":/root/"
	up := r.do(r.command("cp", "source", there))
	if up.exit != 0 || strings.Count(up.stderr, "left out") != 1 || !strings.Contains(up.stderr, "pipe (not a regular file)") {
		t.Fatalf("upload: %+v", up)
	}
	r.must(r.command("exec", sandbox, "--", "mkfifo", "/root/source/pipe"))
	r.must(r.command("exec", sandbox, "--", "ln", "-s", "source", "/root/to source"))
	down := r.do(r.command("cp", there+"source", "target"))
	if down.exit != 0 || strings.Count(down.stderr, "left out") != 1 {
		t.Fatalf("download: %+v", down)
	}
	if got := tree(t, r.path("target")); !slices.Equal(got, want) {
		t.Errorf("came back as\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	// A target that exists receives the source under its own name; a link that was named stands
	// for its directory.
	for _, line := range [][]string{{there + "source", "target"}, {there + "to source", "target/"}, {there + "to source", "new/er/"}} {
		r.must(r.command("cp", line[0], line[1]))
		name := strings.TrimPrefix(line[0], there)
		if got := tree(t, filepath.Join(r.path(line[1]), name)); !slices.Equal(got, want) {
			t.Errorf("%q holds\n%s", line, strings.Join(got, "\n"))
		}
	}
	r.must(r.command("cp", "to source", sandbox+":/root/from-link"))
	r.must(r.command("cp", sandbox+":/root/from-link", "from-link"))
	if got := tree(t, r.path("from-link")); !slices.Equal(got, want) {
		t.Errorf("through a link here:\n%s", strings.Join(got, "\n"))
	}
	// A second copy over the first changes nothing.
	r.must(r.command("cp", "source", there))
	r.must(r.command("cp", there+"source", "again"))
	if got := tree(t, r.path("again")); !slices.Equal(got, want) {
		t.Errorf("after a second copy:\n%s", strings.Join(got, "\n"))
	}
}

// TestCopyNames: what a single file is called afterwards.
func TestCopyNames(t *testing.T) {
	r := newRig(t).serve()
	sandbox := r.sandbox()
	r.env = append(r.env, "SB="+sandbox)
	r.write("file", "words", 0o640)
	r.must(r.shell("mkdir dir; ln -s dir link-to-dir; ln -s real link-to-file; echo old >real; mkfifo pipe"))
	r.must(r.command("exec", sandbox, "--", "sh", "-c", "mkdir dir; ln -s dir link-to-dir; ln -s real link-to-file; echo old >real"))
	for _, row := range []struct{ line, prints string }{
		{"stacyvm cp file $SB: && stacyvm exec $SB -- cat /workspace/file", "words"},
		{"stacyvm cp file $SB:other && stacyvm exec $SB -- stat -c %a /workspace/other", "640\n"},
		{"stacyvm cp file $SB:dir && stacyvm exec $SB -- cat dir/file", "words"},
		{"stacyvm cp file $SB:link-to-dir && stacyvm exec $SB -- readlink link-to-dir", "dir\n"},
		{"stacyvm cp file $SB:link-to-file && stacyvm exec $SB -- cat real", "words"},
		{"stacyvm cp file $SB:new/er/ && stacyvm exec $SB -- cat new/er/file", "words"},
		{"stacyvm cp file $SB:new/name && stacyvm exec $SB -- cat new/name", "words"},
		{"echo piped | stacyvm cp /dev/stdin $SB:piped && stacyvm exec $SB -- cat piped", "piped\n"},
		{"stacyvm cp $SB:file . && cat file", "words"},
		{"stacyvm cp $SB:file dir && cat dir/file", "words"},
		{"stacyvm cp $SB:file link-to-dir/ && readlink link-to-dir", "dir\n"},
		{"stacyvm cp $SB:file link-to-file && cat real && readlink link-to-file", "wordsreal\n"},
		{"stacyvm cp $SB:file new/er/ && cat new/er/file", "words"},
		{"stacyvm cp $SB:link-to-file followed && cat followed", "words"},
		{"stacyvm cp $SB:file /dev/stdout", "words"},
		{"cat pipe & stacyvm cp $SB:file pipe && wait && test -p pipe", "words"},
		{"stacyvm cp $SB:file /dev/null && test -c /dev/null", ""},
		{"echo piped | stacyvm cp - $SB:from/input && stacyvm exec $SB -- cat from/input", "piped\n"},
		{"stacyvm cp $SB:file -", "words"},
		{"stacyvm cp $SB:from - | tar xO input", "piped\n"},
		{"stacyvm cp file real $SB:dir && stacyvm exec $SB -- cat dir/file dir/real", "wordswords"},
		{"stacyvm cp file dir $SB:some/ && stacyvm exec $SB -- cat some/file some/dir/file", "wordswords"},
		{"stacyvm cp $SB:file $SB:some several/ && cat several/file several/some/file", "wordswords"},
		{"stacyvm cp --user 12:34 dir $SB:given && stacyvm exec $SB -- stat -c %u:%g given given/file", "12:34\n12:34\n"},
		{"stacyvm cp --user user file $SB:hers && stacyvm exec $SB -- stat -c %U hers", "user\n"},
		{"mkdir 'new\nline'; touch './-'; stacyvm cp 'new\nline' ./- $SB:odd/ && stacyvm exec $SB -- ls -b odd", "-\nnew\\nline\n"},
	} {
		if got := r.do(r.shell(row.line)); got.exit != 0 || got.stdout != row.prints || got.stderr != "" {
			t.Errorf("%s: %+v", row.line, got)
		}
	}
}

// TestCopyGoesOn: what goes wrong with one file does not stop the others, and shows in the exit
// code.
func TestCopyGoesOn(t *testing.T) {
	r := newRig(t).serve()
	sandbox := r.sandbox()
	r.env = append(r.env, "SB="+sandbox)
	r.must(r.shell("mkdir -p dir clash && echo a >dir/a && echo b >dir/b && echo c >dir/c && echo d >other"))
	r.must(r.command("exec", sandbox, "--", "sh", "-c", "mkdir -p into/dir/b/full one; echo x >one/x"))
	for _, row := range []struct {
		line, problem string
		exit          int
		check, prints string
	}{
		{"stacyvm cp dir nowhere other $SB:into", "nowhere", 1, "stacyvm exec $SB -- cat into/dir/a into/dir/c into/other", "a\nc\nd\n"},
		{"stacyvm cp dir $SB:into", "into/dir/b", 1, "stacyvm exec $SB -- ls into/dir/b", "full\n"},
		{"stacyvm cp $SB:nothing $SB:one clash", "nothing", 1, "cat clash/one/x", "x\n"},
		{"stacyvm cp dir other $SB:not-there", "several sources", 1, "stacyvm exec $SB -- ls -d not-there || echo none", "none\n"},
		{"stacyvm cp other dir/../other $SB:into", "two sources are called other", 1, "", ""},
		{"stacyvm cp other $SB:x here", "exactly one", 1, "", ""},
		{"stacyvm cp other - $SB:into </dev/null", "one source", 1, "", ""},
		{"stacyvm cp - $SB:into </dev/null", "give the file", 1, "", ""},
		{"stacyvm cp --user root $SB:one here", "--user", 1, "", ""},
		{"stacyvm cp --user nobody-here dir $SB:y", "nobody-here", 1, "", ""},
	} {
		if got := r.do(r.shell(row.line)); got.exit != row.exit || got.stdout != "" || !strings.Contains(got.stderr, row.problem) {
			t.Errorf("%s: %+v", row.line, got)
		}
		if row.check != "" {
			if got := r.do(r.shell(row.check + " 2>/dev/null")); got.stdout != row.prints {
				t.Errorf("after %s: %+v", row.line, got)
			}
		}
	}
	// What a command's words cannot carry is refused, and named.
	for _, words := range [][]string{{"exec", sandbox, "--", "printf", "%s", "caf\xe9"}, {"exec", "-e", "V=caf\xe9", sandbox, "--", "env"}, {"exec", "-w", "/caf\xe9", sandbox, "--", "pwd"}, {"spawn", "--image", "caf\xe9"}} {
		if got := r.do(r.command(words...)); got.exit == 0 || got.stdout != "" || !strings.Contains(got.stderr, `caf\xe9`) {
			t.Errorf("%q: %+v", words, got)
		}
	}
}

// TestCopyHostile: the sandbox cannot make a download write outside its target, and what cannot be
// copied is told.
func TestCopyHostile(t *testing.T) {
	r := newRig(t).serve()
	sandbox := r.sandbox()
	r.must(r.command("exec", sandbox, "--", "sh", "-c", "mkdir -p out/sub; echo bad >out/sub/file; echo bad >out/file; chmod 7777 out/file"))
	r.write("elsewhere/file", "mine", 0o644)
	// A directory and a file of the target are links that lead out of it.
	if err := os.MkdirAll(r.path("out"), 0o755); err != nil {
		t.Fatal(err)
	}
	for link, to := range map[string]string{"out/sub": "../elsewhere", "out/file": "../elsewhere/file"} {
		if err := os.Symlink(to, r.path(link)); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.do(r.command("cp", sandbox+":out", ".")); got.exit != 1 || !strings.Contains(got.stderr, "sub") {
		t.Errorf("through a link: %+v", got)
	}
	if got := tree(t, r.path("elsewhere")); len(got) != 1 || got[0] != `"file" -rw-r--r-- "mine"` {
		t.Errorf("outside the target: %q", got)
	}
	info, err := os.Lstat(r.path("out/file"))
	if err != nil || info.Mode() != 0o755 {
		t.Errorf("a file with every bit set came as %v %v", info.Mode(), err)
	}
	// A name that is not text is kept as it is, and told.
	r.must(r.command("exec", sandbox, "--", "python3", "-c", `import os; os.mkdir("odd"); open(b"odd/bad\xff", "w"); open("odd/good", "w")`))
	got := r.do(r.command("cp", sandbox+":odd", "odd"))
	if got.exit != 0 || !strings.Contains(got.stderr, `bad\xff`) {
		t.Errorf("a name that is not text: %+v", got)
	}
	want := tree(t, r.path("odd"))
	if len(want) != 2 || !strings.HasPrefix(want[0], `"bad\xff"`) || !strings.HasPrefix(want[1], `"good"`) {
		t.Errorf("a name that is not text: %q", want)
	}
	for _, source := range []string{"odd", "odd/bad\xff"} {
		if got := r.do(r.command("cp", source, sandbox+":back/")); got.exit != 0 || !strings.Contains(got.stderr, `bad\xff`) {
			t.Errorf("back: %+v", got)
		}
	}
	if got := r.must(r.command("exec", sandbox, "--", "python3", "-c", `import os; print(sorted(os.listdir(b"back")), sorted(os.listdir(b"back/odd")))`)); got != `[b'bad\xff', b'odd'] [b'bad\xff', b'good']`+"\n" {
		t.Errorf("back: %s", got)
	}
	// Half a file is none: the sandbox goes away in the middle.
	r.must(r.command("exec", sandbox, "--", "sh", "-c", "truncate -s 20G huge"))
	cmd := r.command("cp", sandbox+":huge", "huge")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a part of the file", func() bool {
		parts, err := filepath.Glob(r.path(".stacyvm-*"))
		return err == nil && len(parts) == 1
	})
	if err := r.client.Destroy(context.Background(), sandbox); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	parts, err := filepath.Glob(r.path("*huge*"))
	hidden, hiddenErr := filepath.Glob(r.path(".stacyvm-*"))
	if cmd.ProcessState.ExitCode() != 1 || err != nil || hiddenErr != nil || len(parts)+len(hidden) > 0 {
		t.Errorf("%v, left %q %q", cmd.ProcessState, parts, hidden)
	}
}

// TestCopyInterrupted: Ctrl-C in the middle leaves nothing half, on neither side.
func TestCopyInterrupted(t *testing.T) {
	r := newRig(t).serve()
	sandbox := r.sandbox()
	r.env = append(r.env, "SB="+sandbox)
	r.must(r.command("exec", sandbox, "--", "sh", "-c", "mkdir -p far/sub; truncate -s 20G far/sub/huge"))
	r.must(r.shell("mkdir -p near/sub here; truncate -s 20G near/sub/huge"))
	atWork := func(remote bool) func() bool {
		return func() bool {
			if remote {
				return r.must(r.shell("stacyvm exec $SB -- find . -name '.stacyvm-*'")) != ""
			}
			parts, err := filepath.Glob(r.path("here/.stacyvm-*"))
			deep, deepErr := filepath.Glob(r.path("here/far/sub/.stacyvm-*"))
			return err == nil && deepErr == nil && len(parts)+len(deep) > 0
		}
	}
	for _, row := range []struct {
		args   []string
		remote bool
	}{
		{[]string{"cp", sandbox + ":far", "here"}, false}, {[]string{"cp", sandbox + ":far/sub/huge", "here"}, false},
		{[]string{"cp", "near", sandbox + ":"}, true}, {[]string{"cp", "near/sub/huge", sandbox + ":"}, true},
	} {
		cmd := r.command(row.args...)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "a part of the file", atWork(row.remote))
		if err := cmd.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 130 {
			t.Errorf("%q: %v", row.args, cmd.ProcessState)
		}
		eventually(t, "the part is gone", func() bool { return !atWork(row.remote)() })
	}
	if got := r.must(r.shell("find here near -name huge; stacyvm exec $SB -- find . -name huge")); got != "near/sub/huge\n./far/sub/huge\n" {
		t.Errorf("left: %q", got)
	}
}

func TestCopyLargeFile(t *testing.T) {
	r := newRig(t).serve()
	sandbox := r.sandbox()
	sum := r.mebibytes("large", 100)
	r.must(r.command("cp", "large", sandbox+":/tmp/large"))
	if got := r.must(r.command("exec", sandbox, "--", "sha256sum", "/tmp/large")); !strings.HasPrefix(got, sum) {
		t.Errorf("up: %s, want %s", got, sum)
	}
	r.must(r.command("cp", sandbox+":/tmp/large", "back"))
	if got := r.sum("back"); got != sum {
		t.Errorf("down: %s, want %s", got, sum)
	}
}
