package cli

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// command runs one command line with stdin as its input, and gives what it printed, its complaint,
// and its exit code.
func command(ctx context.Context, t *testing.T, stdin *os.File, args ...string) (stdout, problem string, exit int) {
	t.Helper()
	dir := t.TempDir()
	out, outErr := os.Create(filepath.Join(dir, "stdout"))
	complaints, err := os.Create(filepath.Join(dir, "stderr"))
	if err := errors.Join(outErr, err); err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	defer complaints.Close()
	a := &app{stdin: stdin, stdout: out, stderr: complaints}
	root := a.root()
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		a.report(err)
	}
	text, err := os.ReadFile(out.Name())
	complaint, problemErr := os.ReadFile(complaints.Name())
	if err := errors.Join(err, problemErr); err != nil {
		t.Fatal(err)
	}
	return string(text), strings.TrimSuffix(strings.TrimPrefix(string(complaint), "stacyvm: "), "\n"), a.exit
}

// archiveFile is a small root file system.
func archiveFile(t *testing.T) *os.File {
	t.Helper()
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	if err := writer.WriteHeader(&tar.Header{Name: "bin/tool", Typeflag: tar.TypeReg, Mode: 0o755, Size: 4}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(writer, "tool"); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(t.TempDir(), "root.tar"))
	if err := errors.Join(err, writer.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	if _, err := buffer.WriteTo(file); err != nil {
		t.Fatal(err)
	}
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestImages(t *testing.T) {
	t.Setenv("STACYVM_DATA_DIR", t.TempDir())
	source := archiveFile(t)
	odd := t.TempDir()
	for i := range 12 {
		if err := unix.Mkfifo(filepath.Join(odd, strconv.Itoa(i)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, line := range []struct{ args, out, problem string }{
		{"image import from/file " + source.Name(), "Image from/file imported (4 B)\n", ""},
		{"image import from/stdin -", "Image from/stdin imported (4 B)\n", ""},
		{"image import from/file " + source.Name(), "", `there is an image "from/file" already`},
		{"image import odd " + odd, "Image odd imported (0 B); left out 12: 0 (pipe), 1 (pipe), 10 (pipe), 11 (pipe), 2 (pipe), 3 (pipe), 4 (pipe), 5 (pipe), 6 (pipe), 7 (pipe), …\n", ""},
		{"image rm odd", "Image odd removed\n", ""},
		{"image import host " + source.Name(), "", `name: "host" is built in`},
		{"image import x /no/such/file", "", "/no/such/file: there is no such file or directory"},
		{"image import x /etc/hostname", "", "/etc/hostname: it is not a tar archive"},
		{"image import x", "", "missing argument"},
		{"image rm host", "", `the image "host" is built in`},
		{"image rm nothing", "", `there is no image "nothing"`},
		{"image rm", "", "missing argument"},
		{"image list --output xml", "", "neither table nor json"},
	} {
		out, problem, _ := command(t.Context(), t, source, strings.Fields(line.args)...)
		if out != line.out || !strings.HasPrefix(problem, line.problem) && !strings.HasSuffix(problem, line.problem) || (line.problem == "") != (problem == "") {
			t.Errorf("%s: printed %q, problem %q", line.args, out, problem)
		}
	}
	out, problem, _ := command(t.Context(), t, nil, "image", "list", "-o", "json")
	var images []imageLine
	if err := json.Unmarshal([]byte(out), &images); err != nil || problem != "" || len(images) != 3 {
		t.Fatalf("%q %q %v", out, problem, err)
	}
	if host := images[0]; host.Name != "host" || !host.BuiltIn || host.CreatedAt != nil {
		t.Errorf("built-in image: %+v", host)
	}
	if file := images[1]; file.Name != "from/file" || file.Bytes != 4 || file.CreatedAt == nil || file.BuiltIn || file.InUse != 0 || file.Digest != images[2].Digest {
		t.Errorf("imported images: %+v", images[1:])
	}
	out, problem, _ = command(t.Context(), t, nil, "image", "rm", "from/file", "from/stdin")
	if out != "Image from/file removed\nImage from/stdin removed\n" || problem != "" {
		t.Errorf("%q %q", out, problem)
	}
	out, _, _ = command(t.Context(), t, nil, "image", "ls")
	if lines := strings.Split(strings.TrimSpace(out), "\n"); len(lines) != 2 || !strings.HasPrefix(lines[1], "host   built in") {
		t.Errorf("table: %q", out)
	}
}

// TestInterruptedImport: the archive's sender says nothing more, and the user gives up.
func TestInterruptedImport(t *testing.T) {
	t.Setenv("STACYVM_DATA_DIR", t.TempDir())
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	if _, err := io.Copy(writer, io.LimitReader(archiveFile(t), 600)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, problem, exit := command(ctx, t, reader, "image", "import", "x", "-")
		if problem != "interrupted" || exit != exitInterrupted {
			t.Errorf("problem %q, exit %d", problem, exit)
		}
	}()
	cancel()
	<-done
	if left, err := filepath.Glob(filepath.Join(os.Getenv("STACYVM_DATA_DIR"), "images", "[it]m*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v %v", left, err)
	}
}
