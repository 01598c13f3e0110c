package acceptance

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"testing"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// archive packs files; a value that begins with -> is a symbolic link.
func (r *rig) archive(files [][2]string) []byte {
	r.t.Helper()
	var packed bytes.Buffer
	w := tar.NewWriter(&packed)
	for _, file := range files {
		header := &tar.Header{Name: file[0], Mode: 0o755, Size: int64(len(file[1])), Typeflag: tar.TypeReg}
		if to, isLink := bytes.CutPrefix([]byte(file[1]), []byte("->")); isLink {
			header.Typeflag, header.Linkname, header.Size = tar.TypeSymlink, string(to), 0
		}
		if err := w.WriteHeader(header); err != nil {
			r.t.Fatal(err)
		}
		if header.Size > 0 {
			if _, err := w.Write([]byte(file[1])); err != nil {
				r.t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		r.t.Fatal(err)
	}
	return packed.Bytes()
}

// busybox gives a root file system of one static program under several names.
func (r *rig) busybox(more ...[2]string) []byte {
	r.t.Helper()
	program, err := os.ReadFile(testneed.Program(r.t, "busybox"))
	if err != nil {
		r.t.Fatal(err)
	}
	files := [][2]string{{"bin/busybox", string(program)}}
	for _, name := range []string{"sh", "id", "cat", "touch", "stat", "hostname", "pwd"} {
		files = append(files, [2]string{"bin/" + name, "->busybox"})
	}
	return r.archive(append(files, more...))
}

// saved makes what `docker save` writes of an image with one layer, and imports it.
func (r *rig) saved(name string, config map[string]any, layer []byte) {
	r.t.Helper()
	image, err := json.Marshal(map[string]any{
		"os": "linux", "architecture": runtime.GOARCH, "config": config,
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{fmt.Sprintf("sha256:%x", sha256.Sum256(layer))}},
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.write(name+".tar", string(r.archive([][2]string{
		{"manifest.json", `[{"Config":"config.json","Layers":["layer.tar"]}]`}, {"config.json", string(image)}, {"layer.tar", string(layer)},
	})), 0o644)
	r.must(r.command("image", "import", name, name+".tar"))
}

// spawn creates a sandbox of an image.
func (r *rig) spawn(image string) string {
	r.t.Helper()
	s, err := r.client.Spawn(r.t.Context(), client.SpawnRequest{Image: image})
	if err != nil {
		r.t.Fatal(err)
	}
	return s.ID
}

// TestImageThatIsNotRoot: what an image's configuration asks for is what its commands and files
// get.
func TestImageThatIsNotRoot(t *testing.T) {
	r := newRig(t).serve()
	layer := r.busybox([2]string{"etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:1001:1002::/home/app:/bin/sh\n"},
		[2]string{"etc/group", "app:x:1002:\nextra:x:1500:app\n"})
	const look = `echo $(id -u) $(id -G) $HOME $(pwd); touch here && stat -c %u:%g . here /workspace /workspace/up`
	for user, want := range map[string]string{
		"app":        "1001 1002 1500 /home/app /srv/app\n1001:1002\n1001:1002\n1001:1002\n1001:1002\n",
		"1001:extra": "1001 1500 /home/app /srv/app\n1001:1500\n1001:1500\n1001:1500\n1001:1500\n",
		"4321:4321":  "4321 4321 / /srv/app\n4321:4321\n4321:4321\n4321:4321\n4321:4321\n",
		"":           "0 0 /root /srv/app\n0:0\n0:0\n1000:1000\n0:0\n",
	} {
		r.saved("tool", map[string]any{"User": user, "WorkingDir": "srv/app"}, layer)
		sandbox := r.spawn("tool")
		r.write("up", "x", 0o644)
		r.must(r.command("cp", "up", sandbox+":up"))
		if got := r.must(r.command("exec", sandbox, "--", "sh", "-c", look)); got != want {
			t.Errorf("%q: got %q, want %q", user, got, want)
		}
		if got := r.must(r.command("exec", "--user", "root", sandbox, "--", "id", "-u")); got != "0\n" {
			t.Errorf("%q, as root: %q", user, got)
		}
		r.must(r.command("kill", sandbox))
		r.must(r.command("image", "rm", "tool"))
	}
}

// TestOwnName: a sandbox's name and localhost are in its /etc/hosts, whatever the image brings.
func TestOwnName(t *testing.T) {
	r := newRig(t).serve()
	r.write("bare.tar", string(r.busybox()), 0o644)
	r.must(r.command("image", "import", "bare", "bare.tar"))
	for _, image := range []string{"host", "bare"} {
		sandbox := r.spawn(image)
		got := r.must(r.command("exec", sandbox, "--", "sh", "-c", "hostname; cat /etc/hostname /etc/hosts"))
		want := sandbox + "\n" + sandbox + "\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n127.0.0.1\t" + sandbox + "\n"
		if got != want {
			t.Errorf("%s: got %q, want %q", image, got, want)
		}
	}
	sandbox := r.spawn("host")
	r.must(r.command("exec", sandbox, "--", "python3", "-c",
		`import socket; assert socket.gethostbyname("localhost") == socket.gethostbyname(socket.gethostname()) == "127.0.0.1"`))
}
