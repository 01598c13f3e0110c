package agent

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/testneed"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
)

// serveServices serves files below root, and ports, and gives a client for each scope and the
// address.
func serveServices(t *testing.T, root string) (files, exec *guest.Client, conn guest.Conn) {
	t.Helper()
	return serveFiles(t, newFileService(root, "root"))
}

// serveFiles is serveServices for another file service.
func serveFiles(t *testing.T, service guestv1connect.FileServiceHandler) (files, exec *guest.Client, conn guest.Conn) {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(guestv1connect.NewFileServiceHandler(service))
	mux.Handle(guestv1connect.NewPortServiceHandler(newPortService()))
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Handler: mux, Protocols: protocols}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener)
	}()
	transport := guest.NewTransport(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", listener.Addr().String())
	}, guest.NewSecret())
	t.Cleanup(func() {
		transport.Close()
		_ = server.Close()
		<-done
	})
	conn = transport.Conn(guest.ScopeFiles)
	return guest.NewClient(conn), guest.NewClient(transport.Conn(guest.ScopeExec)), conn
}

// onBothRoots runs a test on the whole file system and on a private root. dir is the host's name
// of what base names.
func onBothRoots(t *testing.T, test func(t *testing.T, c *guest.Client, dir, base string)) {
	t.Run("whole", func(t *testing.T) {
		dir := t.TempDir()
		c, _, _ := serveServices(t, "/")
		test(t, c, dir, dir)
	})
	t.Run("private", func(t *testing.T) {
		dir := t.TempDir()
		c, _, _ := serveServices(t, dir)
		test(t, c, dir, "")
	})
}

func put(t *testing.T, c *guest.Client, path string, mode uint32, content string) stacyvm.FileInfo {
	t.Helper()
	info, err := c.WriteFile(t.Context(), path, mode, "", strings.NewReader(content))
	if err != nil {
		t.Fatalf("write %s: %v", path, err)
	}
	return info
}

func text(t *testing.T, c *guest.Client, path string) string {
	t.Helper()
	_, body, err := c.ReadFile(t.Context(), path)
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	defer body.Close()
	content, err := io.ReadAll(body)
	if err != nil {
		t.Fatalf("read %s: %v", path, err)
	}
	return string(content)
}

func wantFailure(t *testing.T, what string, err error, want stacyvm.Code) {
	t.Helper()
	if stacyvm.CodeOf(err) != want {
		t.Errorf("%s: %q, want %q (%v)", what, stacyvm.CodeOf(err), want, err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFilesAreWrittenAndRead(t *testing.T) {
	onBothRoots(t, func(t *testing.T, c *guest.Client, dir, base string) {
		content := make([]byte, 3<<20+17)
		_, _ = rand.Read(content)
		info := put(t, c, base+"/a/b/data", 0, string(content))
		if info.Path != base+"/a/b/data" || info.Size != uint64(len(content)) || info.Mode != 0o644 || info.IsDir {
			t.Errorf("info %+v", info)
		}
		if got := text(t, c, base+"/a/b/data"); got != string(content) {
			t.Errorf("%d bytes came back, changed", len(got))
		}
		must(t, os.Chmod(filepath.Join(dir, "a/b/data"), 0o750))
		if info := put(t, c, base+"/a/b/data", 0, "new"); info.Mode != 0o750 || text(t, c, base+"/a/b/data") != "new" {
			t.Errorf("the mode of a replaced file became %o", info.Mode)
		}
		if info := put(t, c, base+"/a/b/data", 0o4711, ""); info.Mode != 0o4711 || info.Size != 0 {
			t.Errorf("a given mode reads %o, size %d", info.Mode, info.Size)
		}
		if entries, _ := os.ReadDir(filepath.Join(dir, "a/b")); len(entries) != 1 {
			t.Errorf("left beside the file: %v", entries)
		}
	})
}

func TestFilesBelongToTheirUser(t *testing.T) {
	testneed.Root(t, "give files away")
	onBothRoots(t, func(t *testing.T, c *guest.Client, dir, base string) {
		_, err := c.WriteFile(t.Context(), base+"/home/new/file", 0, "1234:4321", strings.NewReader("x"))
		must(t, err)
		for _, name := range []string{"home", "home/new", "home/new/file"} {
			var stat unix.Stat_t
			must(t, unix.Stat(filepath.Join(dir, name), &stat))
			if stat.Uid != 1234 || stat.Gid != 4321 {
				t.Errorf("%s belongs to %d:%d", name, stat.Uid, stat.Gid)
			}
		}
		put(t, c, base+"/home/new/file", 0, "y")
		var stat unix.Stat_t
		must(t, unix.Stat(filepath.Join(dir, "home/new/file"), &stat))
		if stat.Uid != 1234 {
			t.Errorf("a replaced file now belongs to %d", stat.Uid)
		}
		_, err = c.WriteFile(t.Context(), base+"/other", 0, "nobody-of-that-name", strings.NewReader("x"))
		wantFailure(t, "unknown user", err, stacyvm.CodeInvalid)
	})
}

func TestDirectories(t *testing.T) {
	onBothRoots(t, func(t *testing.T, c *guest.Client, dir, base string) {
		ctx := t.Context()
		must(t, c.MakeDir(ctx, base+"/deep/er/est", 0o2750))
		must(t, c.MakeDir(ctx, base+"/deep/er/est", 0))
		info, err := c.StatFile(ctx, base+"/deep/er/est")
		if err != nil || !info.IsDir || info.Mode != 0o2750 {
			t.Errorf("made %+v, %v", info, err)
		}
		for _, name := range []string{"b", "a", "c"} {
			put(t, c, base+"/deep/"+name, 0, name)
		}
		must(t, os.Symlink("a", filepath.Join(dir, "deep/link")))
		must(t, os.WriteFile(filepath.Join(dir, "deep/\xff"), nil, 0o600))
		list, err := c.ListFiles(ctx, base+"/deep")
		must(t, err)
		var names []string
		for _, info := range list {
			names = append(names, strings.TrimPrefix(info.Path, base+"/deep/"))
		}
		if want := []string{"a", "b", "c", "er", "link", "\uFFFD"}; !slices.Equal(names, want) {
			t.Errorf("listed %q", names)
		}
		if list[4].LinkTarget != "a" || !list[3].IsDir {
			t.Errorf("listed %+v", list)
		}
		must(t, c.MoveFile(ctx, base+"/deep/a", base+"/far/away/a"))
		if text(t, c, base+"/far/away/a") != "a" {
			t.Error("a moved file changed")
		}
		must(t, c.ChmodFile(ctx, base+"/far", 0o1777))
		if info, err := c.StatFile(ctx, base+"/far"); err != nil || info.Mode != 0o1777 {
			t.Errorf("chmod made %o, %v", info.Mode, err)
		}
		wantFailure(t, "remove a full directory", c.RemoveFile(ctx, base+"/far", false), stacyvm.CodeConflict)
		must(t, c.RemoveFile(ctx, base+"/far", true))
		wantFailure(t, "remove twice", c.RemoveFile(ctx, base+"/far", true), stacyvm.CodeNotFound)
	})
}

func TestWrongRequests(t *testing.T) {
	onBothRoots(t, func(t *testing.T, c *guest.Client, dir, base string) {
		ctx := t.Context()
		put(t, c, base+"/file", 0, "x")
		must(t, c.MakeDir(ctx, base+"/dir/sub", 0))
		readErr := func(path string) error { _, _, err := c.ReadFile(ctx, path); return err }
		writeErr := func(path string, mode uint32) error {
			_, err := c.WriteFile(ctx, path, mode, "", strings.NewReader("x"))
			return err
		}
		listErr := func(path string) error { _, err := c.ListFiles(ctx, path); return err }
		globErr := func(pattern string) error { _, err := c.GlobFiles(ctx, pattern); return err }
		long := strings.Repeat("n", 256)
		for what, tt := range map[string]struct {
			err  error
			want stacyvm.Code
		}{
			"read nothing":            {readErr(base + "/none"), stacyvm.CodeNotFound},
			"read a directory":        {readErr(base + "/dir"), stacyvm.CodeInvalid},
			"read below a file":       {readErr(base + "/file/x"), stacyvm.CodeInvalid},
			"read a long name":        {readErr(base + "/" + long), stacyvm.CodeInvalid},
			"read an empty path":      {readErr(""), stacyvm.CodeInvalid},
			"read a path with zero":   {readErr("/a\x00b"), stacyvm.CodeInvalid},
			"read a huge path":        {readErr(strings.Repeat("/x", 3000)), stacyvm.CodeInvalid},
			"write a directory":       {writeErr(base+"/dir", 0), stacyvm.CodeInvalid},
			"write a long name":       {writeErr(base+"/"+long, 0), stacyvm.CodeInvalid},
			"write below a file":      {writeErr(base+"/file/x", 0), stacyvm.CodeInvalid},
			"write a wild mode":       {writeErr(base+"/y", 0o10000), stacyvm.CodeInvalid},
			"write the root":          {writeErr("/", 0), stacyvm.CodeInvalid},
			"list a file":             {listErr(base + "/file"), stacyvm.CodeInvalid},
			"list nothing":            {listErr(base + "/none"), stacyvm.CodeNotFound},
			"glob nonsense":           {globErr(base + "/[a"), stacyvm.CodeInvalid},
			"mkdir over a file":       {c.MakeDir(ctx, base+"/file", 0), stacyvm.CodeInvalid},
			"mkdir below a file":      {c.MakeDir(ctx, base+"/file/x", 0), stacyvm.CodeInvalid},
			"move nothing":            {c.MoveFile(ctx, base+"/none", base+"/made/for/it"), stacyvm.CodeNotFound},
			"move into itself":        {c.MoveFile(ctx, base+"/dir", base+"/dir/sub/x"), stacyvm.CodeInvalid},
			"move over a full one":    {c.MoveFile(ctx, base+"/dir/sub", base+"/dir"), stacyvm.CodeConflict},
			"move the root":           {c.MoveFile(ctx, "/", base+"/x"), stacyvm.CodeInvalid},
			"chmod nothing":           {c.ChmodFile(ctx, base+"/none", 0o600), stacyvm.CodeNotFound},
			"chmod to a wild mode":    {c.ChmodFile(ctx, base+"/file", 0o10000), stacyvm.CodeInvalid},
			"remove the root":         {c.RemoveFile(ctx, "/", true), stacyvm.CodeInvalid},
			"remove what is the root": {c.RemoveFile(ctx, "/tmp/../..", true), stacyvm.CodeInvalid},
		} {
			wantFailure(t, what, tt.err, tt.want)
			if base == "" && tt.err != nil && strings.Contains(tt.err.Error(), dir) {
				t.Errorf("%s: the host's path shows in %v", what, tt.err)
			}
		}
		if _, err := os.Lstat(filepath.Join(dir, "made")); !errors.Is(err, os.ErrNotExist) {
			t.Error("a move that failed made directories")
		}
	})
}

func TestLinksAreWrittenThrough(t *testing.T) {
	onBothRoots(t, func(t *testing.T, c *guest.Client, dir, base string) {
		put(t, c, base+"/real/target", 0o600, "old")
		must(t, os.Symlink("../real/target", filepath.Join(dir, "real/../link0")) /* dangling */)
		must(t, os.Mkdir(filepath.Join(dir, "links"), 0o755))
		must(t, os.Symlink("../real/target", filepath.Join(dir, "links/one")))
		must(t, os.Symlink("one", filepath.Join(dir, "links/two")))
		must(t, os.Symlink("../real/fresh", filepath.Join(dir, "links/dangling")))
		must(t, os.Symlink("loop", filepath.Join(dir, "links/loop")))
		if info := put(t, c, base+"/links/two", 0, "new"); info.Mode != 0o600 {
			t.Errorf("the target's mode became %o", info.Mode)
		}
		if text(t, c, base+"/real/target") != "new" {
			t.Error("the target of a link kept its content")
		}
		put(t, c, base+"/links/dangling", 0, "made")
		if text(t, c, base+"/real/fresh") != "made" {
			t.Error("the target of a dangling link was not made")
		}
		for _, name := range []string{"one", "two", "dangling"} {
			if info, err := c.StatFile(t.Context(), base+"/links/"+name); err != nil || info.LinkTarget == "" {
				t.Errorf("%s is no link any more: %+v, %v", name, info, err)
			}
		}
		_, err := c.WriteFile(t.Context(), base+"/links/loop", 0, "", strings.NewReader("x"))
		wantFailure(t, "a loop", err, stacyvm.CodeInvalid)
		must(t, c.RemoveFile(t.Context(), base+"/links/one", true))
		if text(t, c, base+"/real/target") != "new" {
			t.Error("removing a link removed its target")
		}
	})
}

func TestSpecialFilesDoNotBlock(t *testing.T) {
	onBothRoots(t, func(t *testing.T, c *guest.Client, dir, base string) {
		must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
		socket, err := net.Listen("unix", filepath.Join(dir, "socket"))
		must(t, err)
		defer socket.Close()
		for _, name := range []string{"/fifo", "/socket"} {
			_, _, err := c.ReadFile(t.Context(), base+name)
			wantFailure(t, "read "+name, err, stacyvm.CodeInvalid)
			_, err = c.WriteFile(t.Context(), base+name, 0, "", strings.NewReader("x"))
			wantFailure(t, "write "+name, err, stacyvm.CodeInvalid)
			_, err = c.ListFiles(t.Context(), base+name)
			wantFailure(t, "list "+name, err, stacyvm.CodeInvalid)
		}
	})
	c, _, _ := serveServices(t, "/")
	for _, device := range []string{"/dev/null", "/dev/zero"} {
		_, _, err := c.ReadFile(t.Context(), device)
		wantFailure(t, "read "+device, err, stacyvm.CodeInvalid)
	}
	if _, _, err := c.ReadFile(t.Context(), "/proc/self/mem"); stacyvm.CodeOf(err) != stacyvm.CodeInvalid {
		t.Errorf("a file that cannot be read at all: %v", err)
	}
	// By number: the go command would look at its own /proc/self/cwd, find the module there, and
	// never keep the result.
	link := filepath.Join("/proc", strconv.Itoa(os.Getpid()), "cwd")
	for _, made := range []string{"/proc", "/proc/self/fdinfo", link, "/proc/sys/kernel"} {
		wantFailure(t, "remove "+made, c.RemoveFile(t.Context(), made, true), stacyvm.CodeInvalid)
	}
	if !strings.Contains(text(t, c, "/proc/self/status"), "VmRSS") {
		t.Error("a file of /proc, whose size is 0, reads empty")
	}
}

func TestReadsBeyondFourGiB(t *testing.T) {
	dir := t.TempDir()
	_, _, conn := serveServices(t, "/")
	const at = 5<<30 + 3
	file, err := os.Create(filepath.Join(dir, "huge"))
	must(t, err)
	_, err = file.WriteAt([]byte("needle"), at)
	must(t, err)
	must(t, file.Close())
	raw := guestv1connect.NewFileServiceClient(conn.HTTP, conn.URL)
	part := func(offset, length uint64) (string, uint64, error) {
		stream, err := raw.Read(t.Context(), connect.NewRequest(&guestv1.ReadRequest{Path: file.Name(), Offset: offset, Length: length}))
		must(t, err)
		defer stream.Close()
		var size uint64
		var content bytes.Buffer
		for stream.Receive() {
			size = max(size, stream.Msg().GetInfo().GetSize())
			content.Write(stream.Msg().GetData())
		}
		return content.String(), size, stream.Err()
	}
	for _, tt := range []struct {
		offset, length uint64
		want           string
	}{{at, 4, "need"}, {at + 4, 0, "le"}, {at + 100, 0, ""}, {at + 1<<40, 0, ""}} {
		got, size, err := part(tt.offset, tt.length)
		if err != nil || got != tt.want || size != at+6 {
			t.Errorf("from %d: %q, size %d, %v", tt.offset, got, size, err)
		}
	}
	if _, _, err := part(1<<63, 0); connect.CodeOf(err) != connect.CodeInvalidArgument {
		t.Errorf("an offset beyond all files: %v", err)
	}
}

// endless gives bytes until the context ends, and cuts the stream then.
type endless struct {
	after int
	cut   func()
}

func (e *endless) Read(p []byte) (int, error) {
	if e.after -= len(p); e.after < 0 {
		e.cut()
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestCutWritesLeaveNothing(t *testing.T) {
	dir := t.TempDir()
	c, _, _ := serveServices(t, "/")
	target := dir + "/file"
	put(t, c, target, 0, "old")
	for _, after := range []int{0, 100 << 10, 4 << 20} {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := c.WriteFile(ctx, target, 0, "", &endless{after: after, cut: cancel})
		if err == nil {
			t.Fatal("a cut write is a success")
		}
		_, err = c.WriteFile(t.Context(), target, 0, "", &endless{after: after, cut: func() {}})
		wantFailure(t, "a body that breaks", err, stacyvm.CodeInvalid)
	}
	// The server learns of the cut on its own time: watch the directory until it is clean.
	watched := func() bool {
		entries, err := os.ReadDir(dir)
		must(t, err)
		return len(entries) == 1
	}
	eventually(t, "the temporary files are gone", watched)
	if text(t, c, target) != "old" {
		t.Error("a cut write changed the file")
	}
}
