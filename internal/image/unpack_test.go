package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// outside is a directory beside the image store whose files nobody may touch.
func outside(t *testing.T) (dir string, check func()) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"passwd", "victim"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("canary"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	before := listing(t, dir)
	return dir, func() {
		t.Helper()
		if after := listing(t, dir); after != before {
			t.Errorf("outside was touched:\n%s", after)
		}
		for _, name := range []string{"passwd", "victim"} {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			content, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil || string(content) != "canary" || info.Sys().(*syscall.Stat_t).Nlink != 1 {
				t.Errorf("%s was touched: %q %v", name, content, err)
			}
		}
	}
}

// TestMaliciousArchives: each is refused with the code, or, without one, unpacked so that only the
// root changes.
func TestMaliciousArchives(t *testing.T) {
	canaries, check := outside(t)
	up := strings.Repeat("../", 40)
	long := strings.Repeat("n", 64<<10)
	for name, test := range map[string]struct {
		code    stacyvm.Code
		entries []entry
	}{
		"absolute name":             {"", []entry{file(canaries+"/passwd", "pwned")}},
		"absolute directory":        {"", []entry{dir(canaries)}},
		"parent":                    {stacyvm.CodeInvalid, []entry{file(up+canaries+"/passwd", "pwned")}},
		"parent in the middle":      {stacyvm.CodeInvalid, []entry{dir("a"), file("a/"+up+canaries+"/passwd", "pwned")}},
		"parent directory":          {stacyvm.CodeInvalid, []entry{dir("..")}},
		"parent link":               {stacyvm.CodeInvalid, []entry{symlink("../x", "y")}},
		"absolute link, write":      {"", []entry{symlink("a", canaries), file("a/passwd", "pwned")}},
		"relative link, write":      {"", []entry{symlink("a", up+canaries), file("a/passwd", "pwned")}},
		"link to file, write":       {"", []entry{symlink("a", canaries+"/passwd"), file("a", "pwned")}},
		"link, then directory":      {"", []entry{symlink("a", canaries), dir("a"), file("a/passwd", "pwned")}},
		"two links":                 {"", []entry{symlink("a", "b"), symlink("b", canaries), file("a/passwd", "pwned")}},
		"link, then modes":          {"", []entry{symlink("a", canaries), dir("a/").with(func(h *tar.Header) { h.Mode = 0o777 })}},
		"hard link out":             {stacyvm.CodeInvalid, []entry{hardlink("a", canaries+"/passwd"), file("a", "pwned")}},
		"hard link up":              {stacyvm.CodeInvalid, []entry{hardlink("a", up+canaries+"/passwd")}},
		"hard link through link":    {stacyvm.CodeInvalid, []entry{symlink("l", canaries), hardlink("a", "l/passwd")}},
		"hard link to link, write":  {"", []entry{symlink("l", canaries+"/passwd"), hardlink("a", "l"), file("a", "pwned")}},
		"hard link to link, mode":   {"", []entry{symlink("l", canaries+"/passwd"), hardlink("a", "l").with(func(h *tar.Header) { h.Mode = 0o777 })}},
		"hard link to directory":    {stacyvm.CodeInvalid, []entry{dir("d"), hardlink("a", "d")}},
		"hard link to itself":       {"", []entry{file("a", "b"), hardlink("a", "a")}},
		"link loop":                 {stacyvm.CodeInvalid, []entry{symlink("a", "b"), symlink("b", "a"), file("a/x", "y")}},
		"growing link":              {stacyvm.CodeInvalid, []entry{symlink("a", "a/a"), file("a/x", "y")}},
		"link to nowhere":           {stacyvm.CodeInvalid, []entry{{name: "a", kind: tar.TypeSymlink}}},
		"below a file":              {stacyvm.CodeInvalid, []entry{file("a", "b"), file("a/b", "c")}},
		"root as file":              {stacyvm.CodeInvalid, []entry{file(".", "x")}},
		"root as link":              {stacyvm.CodeInvalid, []entry{symlink("./", canaries)}},
		"long name":                 {stacyvm.CodeInvalid, []entry{file(long, "x")}},
		"long path":                 {stacyvm.CodeInvalid, []entry{file(strings.Repeat("abc/", 16<<10)+"x", "x")}},
		"deep path":                 {stacyvm.CodeInvalid, []entry{file(strings.Repeat("a/", 1000)+"x", "x")}},
		"long link":                 {stacyvm.CodeInvalid, []entry{symlink("a", long)}},
		"owner -1":                  {stacyvm.CodeInvalid, []entry{file("a", "b").with(func(h *tar.Header) { h.Uid = 1<<32 - 1 })}},
		"group -1":                  {stacyvm.CodeInvalid, []entry{file("a", "b").with(func(h *tar.Header) { h.Gid = 1<<32 - 1 })}},
		"owner of 33 bits":          {stacyvm.CodeInvalid, []entry{file("a", "b").with(func(h *tar.Header) { h.Uid = 1 << 32 })}},
		"rest of a file":            {stacyvm.CodeInvalid, []entry{{name: "a", kind: 'M'}}},
		"parent after a link":       {"", []entry{symlink("a", canaries+"/sub"), file("a/../passwd", "pwned"), file("x/a/../../passwd", "pwned")}},
		"parent as a file":          {stacyvm.CodeInvalid, []entry{dir("a"), file("a/..", "pwned")}},
		"parent as a link":          {stacyvm.CodeInvalid, []entry{dir("a"), symlink("a/..", canaries)}},
		"parent of a link":          {"", []entry{symlink("a", canaries), dir("a/.."), file("passwd", "mine")}},
		"hard link to a parent":     {stacyvm.CodeInvalid, []entry{symlink("a", canaries+"/sub"), hardlink("b", "a/../passwd"), file("b", "pwned")}},
		"pipe in a link's place":    {"", []entry{symlink("a", canaries), {name: "a", kind: tar.TypeFifo}, {name: "a/passwd", kind: tar.TypeChar}}},
		"mount point is a link out": {"", []entry{symlink("proc", canaries), symlink("tmp", canaries), symlink("dev", up+canaries)}},
		"etc is a link out":         {"", []entry{symlink("etc", canaries), symlink("home", canaries)}},
		"users are links out":       {"", []entry{dir("etc"), symlink("etc/group", canaries+"/victim"), symlink("etc/shadow", up+canaries+"/victim")}},
		"passwd is a link out":      {"", []entry{dir("etc"), symlink("etc/passwd", canaries+"/passwd")}},
		"layout that links out":     {stacyvm.CodeInvalid, []entry{file("oci-layout", "{}"), symlink("blobs", canaries), file("index.json", layoutIndex)}},
		"saved image that links out": {stacyvm.CodeInvalid, []entry{file("manifest.json", `[{"Config":"c","Layers":["l"]}]`),
			symlink("c", canaries+"/passwd"), symlink("l", canaries+"/victim")}},
		"saved image outside": {stacyvm.CodeInvalid, []entry{file("manifest.json", `[{"Config":"`+up+canaries+`/passwd","Layers":["x"]}]`)}},
		"empty":               {stacyvm.CodeInvalid, nil},
	} {
		t.Run(name, func(t *testing.T) {
			store := open(t, t.TempDir())
			err := importEntries(t, store, "evil", test.entries...)
			wantCode(t, err, test.code)
			check()
			wantClean(t, store)
			if test.code != "" {
				return
			}
			if err := store.Remove(t.Context(), "evil"); err != nil {
				t.Error(err)
			}
			check()
		})
	}
}

const layoutIndex = `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","size":6,
"digest":"sha256:4c9a82ce72ca2519f38d0af0abbb4cecb9fceca9f7d1a4d4a8a9d0d6c1c9e1aa","platform":{"os":"linux","architecture":"` + runtime.GOARCH + `"}}]}`

func TestUnpackedAsTold(t *testing.T) {
	store := open(t, t.TempDir())
	err := importEntries(t, store, "a",
		dir("./").with(func(h *tar.Header) { h.Mode = 0o711 }),
		file("twice", "first"), file("twice", "second"),
		file("was", "a file"), dir("was"), file("was/now", "in a directory"),
		dir("gone"), file("gone/x", "y"), symlink("gone", "twice"),
		dir("usr/lib"), symlink("lib", "/usr/lib"), file("lib/so", "through an absolute link"),
		symlink("usr/up", "../../../usr/lib"), file("usr/up/up", "no higher than the root"),
		file("no/parents/here", "made"),
		hardlink("same", "twice"), hardlink("lib/same", "/lib/so"),
		file("suid", "x").with(func(h *tar.Header) { h.Mode = 0o6755 }),
		dir("sticky").with(func(h *tar.Header) { h.Mode = 0o3777 }),
		file("owned", "x").with(func(h *tar.Header) { h.Uid, h.Gid = 1<<32-2, 123456 }),
		entry{name: "dev/null", kind: tar.TypeChar}, entry{name: "dev/sda", kind: tar.TypeBlock}, entry{name: "pipe", kind: tar.TypeFifo},
		file(strings.Repeat("long/", 60)+"ä", "PAX path"),
		file("zeros", strings.Repeat("\x00", 1<<20)+"end"),
		file("closed", "x").with(func(h *tar.Header) { h.Mode = 0 }),
	)
	if err != nil {
		t.Fatal(err)
	}
	root := resolve(t, store, "a")
	for name, want := range map[string]string{
		"twice": "second", "same": "second", "was/now": "in a directory", "usr/lib/so": "through an absolute link", "usr/lib/up": "no higher than the root",
		"usr/lib/same": "through an absolute link", "no/parents/here": "made", strings.Repeat("long/", 60) + "ä": "PAX path", "zeros": strings.Repeat("\x00", 1<<20) + "end",
		"gone": "second",
	} {
		if got := read(t, root, name); got != want {
			t.Errorf("%s holds %.50q", name, got)
		}
	}
	for name, want := range map[string]fs.FileMode{
		".": fs.ModeDir | 0o711, "suid": 0o755, "sticky": fs.ModeDir | fs.ModeSticky | fs.ModeSetgid | 0o777, "twice": 0o644,
		"tmp": fs.ModeDir | fs.ModeSticky | 0o777, "root": fs.ModeDir | 0o700, "proc": fs.ModeDir | 0o755, "etc/passwd": 0o644, "etc/shadow": 0o600,
	} {
		info, err := os.Lstat(filepath.Join(root.Dir, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
	for _, name := range []string{"dev/null", "dev/sda", "pipe"} {
		if _, err := os.Lstat(filepath.Join(root.Dir, name)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{"twice", "sticky", "usr/lib", "was"} {
		if info, err := os.Lstat(filepath.Join(root.Dir, name)); err != nil || !info.ModTime().Equal(someTime) {
			t.Errorf("time of %s: %v %v", name, info.ModTime(), err)
		}
	}
	info, err := os.Lstat(filepath.Join(root.Dir, "owned"))
	if err != nil {
		t.Fatal(err)
	}
	if stat := info.Sys().(*syscall.Stat_t); os.Geteuid() == 0 && (stat.Uid != 1<<32-2 || stat.Gid != 123456) {
		t.Errorf("owner: %d:%d", stat.Uid, stat.Gid)
	}
}

// TestLeftOut: an entry that no image can hold costs the archive nothing, and the import tells of
// it.
func TestLeftOut(t *testing.T) {
	store := open(t, t.TempDir())
	made, err := store.ImportArchive(t.Context(), "a", bytes.NewReader(archive(t,
		entry{name: "backup of tuesday", kind: 'V'},
		entry{name: "./", kind: 'D'}, entry{name: "./inc", kind: 'D'}, file("inc/x", "incremental"),
		file("was", "a file"), entry{name: "was", kind: tar.TypeChar}, entry{name: "w0", kind: tar.TypeChar},
		hardlink("w1", "w0"), hardlink("w2", "w1"), entry{name: "dir/p", kind: tar.TypeFifo}, hardlink("p2", "/dir/./p"),
		entry{name: "odd", kind: 'Z'},
		file("a/../b", "above"), dir("c/d/.."), file("c/../c/f", "in c"), symlink("up", "c/d"), file("up/../g", "beside d"),
		file("end", "of it"),
	)), nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"backup of tuesday (volume label)", "was (device)", "w0 (device)", "w1 (hard link to what was left out)", "w2 (hard link to what was left out)",
		"dir/p (pipe)", "p2 (hard link to what was left out)", "odd (unknown kind)"}
	if made.LeftOut.Count != len(want) || !slices.Equal(made.LeftOut.Names, want) {
		t.Errorf("left out: %d, %q", made.LeftOut.Count, made.LeftOut.Names)
	}
	root := resolve(t, store, "a")
	for name, want := range map[string]string{"inc/x": "incremental", "b": "above", "c/f": "in c", "c/g": "beside d", "end": "of it"} {
		if got := read(t, root, name); got != want {
			t.Errorf("%s holds %q", name, got)
		}
	}
	for name, there := range map[string]bool{"a": true, "c/d": true, "was": false, "w0": false, "w1": false, "p2": false, "odd": false, "backup of tuesday": false} {
		if _, err := os.Lstat(filepath.Join(root.Dir, name)); (err == nil) != there {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Many are counted, and the first ones named.
	var many []entry
	for i := range 50 {
		many = append(many, entry{name: fmt.Sprint(i), kind: tar.TypeFifo})
	}
	if made, err = store.ImportArchive(t.Context(), "many", bytes.NewReader(archive(t, many...)), nil); err != nil || made.LeftOut.Count != 50 || len(made.LeftOut.Names) != mostNamed {
		t.Errorf("%+v, %v", made.LeftOut, err)
	}
}

func TestUsersOfAnImageStay(t *testing.T) {
	store := open(t, t.TempDir())
	if err := importEntries(t, store, "a", dir("etc"), file("etc/passwd", "root:x:0:0::/:/bin/x\n"), dir("workspace").with(func(h *tar.Header) { h.Mode = 0o700 })); err != nil {
		t.Fatal(err)
	}
	root := resolve(t, store, "a")
	if read(t, root, "etc/passwd") != "root:x:0:0::/:/bin/x\n" {
		t.Error("passwd was changed")
	}
	if info, err := os.Stat(filepath.Join(root.Dir, "workspace")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("workspace was changed: %v %v", info, err)
	}
}

func packed(t testing.TB, content []byte, with func(io.Writer) io.WriteCloser) []byte {
	t.Helper()
	var buffer bytes.Buffer
	writer := with(&buffer)
	if _, err := writer.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

func gzipped(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) }

func zstded(w io.Writer) io.WriteCloser {
	encoder, err := zstd.NewWriter(w)
	if err != nil {
		panic(err)
	}
	return encoder
}

// bzipped asks the machine's own program: Go's library only unpacks.
func bzipped(t *testing.T, plain []byte) []byte {
	t.Helper()
	bzip2 := exec.Command(testneed.Program(t, "bzip2"))
	bzip2.Stdin = bytes.NewReader(plain)
	out, err := bzip2.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCompressions(t *testing.T) {
	plain := archive(t, file("x", strings.Repeat("content", 10_000)))
	for name, pack := range map[string]func(*testing.T) []byte{
		"plain": func(*testing.T) []byte { return plain },
		"gzip":  func(t *testing.T) []byte { return packed(t, plain, gzipped) },
		"zstd":  func(t *testing.T) []byte { return packed(t, plain, zstded) },
		"bzip2": func(t *testing.T) []byte { return bzipped(t, plain) },
	} {
		t.Run(name, func(t *testing.T) {
			content := pack(t)
			store := open(t, t.TempDir())
			var last int64
			if _, err := store.ImportArchive(t.Context(), "a", bytes.NewReader(content), func(done int64) { last = done }); err != nil {
				t.Fatal(err)
			}
			if got := read(t, resolve(t, store, "a"), "x"); got != strings.Repeat("content", 10_000) || last != int64(len(content)) {
				t.Errorf("%d bytes, progress %d", len(got), last)
			}
			for _, cut := range []int{1, 100, len(content) / 2} {
				_, err := store.ImportArchive(t.Context(), "b", bytes.NewReader(content[:cut]), nil)
				wantCode(t, err, stacyvm.CodeInvalid)
			}
			if name != "plain" { // a plain archive has no checksum
				broken := bytes.Clone(content)
				broken[len(broken)/2] ^= 0x55
				_, err := store.ImportArchive(t.Context(), "c", bytes.NewReader(broken), nil)
				wantCode(t, err, stacyvm.CodeInvalid)
			}
			wantClean(t, store)
		})
	}
	for _, content := range []string{"\xfd7zXZ\x00\x00", "no archive at all", "", "\x1f\x8b", "BZh91AY"} {
		_, err := open(t, t.TempDir()).ImportArchive(t.Context(), "a", strings.NewReader(content), nil)
		wantCode(t, err, stacyvm.CodeInvalid)
	}
}

// endless gives zeros without end.
type endless struct{}

func (endless) Read(buffer []byte) (int, error) { clear(buffer); return len(buffer), nil }

// bombHead is the header of a file of that size.
func bombHead(t testing.TB, size int64) []byte {
	t.Helper()
	var buffer bytes.Buffer
	if err := tar.NewWriter(&buffer).WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Mode: 0o644, Size: size}); err != nil {
		t.Fatal(err)
	}
	return buffer.Bytes()
}

// metered counts what is read of a source.
type metered struct {
	io.Reader
	read int
}

func (m *metered) Read(buffer []byte) (int, error) {
	n, err := m.Reader.Read(buffer)
	m.read += n
	return n, err
}

// TestBombs: an archive that grows without measure is refused long before its end, with little
// memory.
func TestBombs(t *testing.T) {
	testneed.Patience(t)
	frame := packed(t, make([]byte, 64<<20), zstded)
	long := append(packed(t, bombHead(t, 10<<30), zstded), bytes.Repeat(frame, 160)...)
	member := packed(t, make([]byte, 16<<20), gzipped)
	deep := append(packed(t, bombHead(t, 10<<30), gzipped), bytes.Repeat(member, 640)...)
	for name, content := range map[string][]byte{"zstd": long, "gzip": deep} {
		store := open(t, t.TempDir())
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		source := &metered{Reader: bytes.NewReader(content)}
		_, err := store.ImportArchive(t.Context(), "a", source, nil)
		wantCode(t, err, stacyvm.CodeTooLarge)
		runtime.ReadMemStats(&after)
		allocated := (after.TotalAlloc - before.TotalAlloc) >> 20
		t.Logf("%s: refused after %d of %d KiB and %d MiB of allocations", name, source.read>>10, len(content)>>10, allocated)
		if allocated > 64 || source.read > len(content)/4 {
			t.Errorf("%s: %d of %d bytes read, %d MiB", name, source.read, len(content), allocated)
		}
		wantClean(t, store)
	}
}

func TestLimits(t *testing.T) {
	store := open(t, t.TempDir())
	store.Limits = Limits{Bytes: 1000, Entries: 5}
	for name, test := range map[string]struct {
		code    stacyvm.Code
		entries []entry
	}{
		"fits":             {"", []entry{file("a", strings.Repeat("x", 500)), file("b", strings.Repeat("x", 500))}},
		"bytes":            {stacyvm.CodeTooLarge, []entry{file("a", strings.Repeat("x", 500)), file("b", strings.Repeat("x", 501))}},
		"one name":         {stacyvm.CodeTooLarge, []entry{file("a", strings.Repeat("x", 500)), file("a", strings.Repeat("x", 501))}},
		"entries":          {stacyvm.CodeTooLarge, []entry{dir("a"), dir("b"), dir("c"), dir("d"), dir("e"), dir("f")}},
		"the same entries": {stacyvm.CodeTooLarge, []entry{dir("a"), dir("a"), dir("a"), dir("a"), dir("a"), dir("a")}},
	} {
		err := importEntries(t, store, "a", test.entries...)
		wantCode(t, err, test.code)
		if err == nil {
			if err := store.Remove(t.Context(), "a"); err != nil {
				t.Fatal(name, err)
			}
		}
	}
	_, err := store.ImportArchive(t.Context(), "a", io.MultiReader(bytes.NewReader(bombHead(t, 1<<40)), endless{}), nil)
	wantCode(t, err, stacyvm.CodeTooLarge)
	wantClean(t, store)
}

// TestSparse imports what GNU tar makes of a file with a hole.
func TestSparse(t *testing.T) {
	source, target := t.TempDir(), filepath.Join(t.TempDir(), "sparse.tar")
	hole, err := os.Create(filepath.Join(source, "hole"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := hole.WriteAt([]byte("end"), 64<<20); err != nil {
		t.Fatal(err)
	}
	if err := hole.Close(); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(testneed.Program(t, "tar"), "-S", "-C", source, "-cf", target, ".").CombinedOutput(); err != nil {
		testneed.Missing(t, "tar", fmt.Sprintf("GNU tar is needed: %v %s", err, out))
	}
	store := open(t, t.TempDir())
	if _, err := store.Import(t.Context(), "a", target, nil); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(resolve(t, store, "a").Dir, "hole"))
	if err != nil || info.Size() != 64<<20+3 {
		t.Fatalf("%v %v", info, err)
	}
	if blocks := info.Sys().(*syscall.Stat_t).Blocks; blocks > 2048 {
		t.Errorf("the hole takes %d blocks", blocks)
	}
	store.Limits.Bytes = 1 << 20
	_, err = store.Import(t.Context(), "b", target, nil)
	wantCode(t, err, stacyvm.CodeTooLarge)
}
