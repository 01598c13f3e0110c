package system

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
)

// TestHostileFiles: paths that climb, links that point at the host's files and links that change
// while a file is read or written never touch anything outside of the sandbox.
func TestHostileFiles(t *testing.T) {
	s := start(t)
	ctx := t.Context()
	canary := filepath.Join(s.Dir, "canary")
	const kept = "the host's own words"
	if err := os.WriteFile(canary, []byte(kept), 0o644); err != nil {
		t.Fatal(err)
	}
	sandbox := s.spawn(client.SpawnRequest{})
	s.shell(sandbox.ID, "ln -s "+canary+" /workspace/link; ln -s "+s.Dir+" /workspace/dir; ln -s / /workspace/top; echo mine > /workspace/mine")

	read := func(path string) {
		body, err := s.Download(ctx, sandbox.ID, path)
		if err != nil {
			return
		}
		defer body.Close()
		if content, _ := io.ReadAll(body); bytes.Contains(content, []byte(kept)) {
			t.Errorf("read of %s reached the host's file", path)
		}
	}
	write := func(path string) {
		_, _ = s.Upload(ctx, sandbox.ID, path, bytes.NewReader([]byte("overwritten")), client.UploadOptions{})
	}
	climb := "/workspace/" + string(bytes.Repeat([]byte("../"), 40))
	paths := []string{canary, climb + canary, "/workspace/link", "/workspace/dir/canary", "/workspace/top" + canary,
		"/proc/1/root" + canary, "/proc/self/root" + canary, "/proc/self/cwd/" + climb + canary, "//" + canary, "/./" + canary + "/."}
	for _, path := range paths {
		read(path)
		write(path)
		_, _ = s.Stat(ctx, sandbox.ID, path)
		_ = s.Chmod(ctx, sandbox.ID, path, 0o777)
		_ = s.Move(ctx, sandbox.ID, path, "/workspace/moved")
		_ = s.Move(ctx, sandbox.ID, "/workspace/mine", path)
		_ = s.Remove(ctx, sandbox.ID, path, true)
	}
	_, _ = s.Glob(ctx, sandbox.ID, "/**/../../../../"+s.Dir+"/*")
	// A link of /proc leads to the root directory: what removes through it empties the sandbox.
	for _, path := range []string{"/proc/self/cwd", "/proc/self", "/proc/1/fd", "/proc/1/root", "/proc"} {
		if err := s.Remove(ctx, sandbox.ID, path, true); err == nil {
			t.Errorf("%s could be removed", path)
		}
	}
	if text := s.shell(sandbox.ID, "ls -d /etc /root /workspace"); text != "/etc\n/root\n/workspace\n" {
		t.Errorf("after removals below /proc there is %q", text)
	}

	s.shell(sandbox.ID, "mkdir -p /workspace/race/real; echo inside > /workspace/race/real/canary")
	if _, err := s.Start(ctx, sandbox.ID, client.ExecRequest{Mode: client.ModeArgv, Command: "python3", Args: []string{"-c", `
import os, sys
os.chdir("/workspace/race")
while True:
    os.symlink(sys.argv[1], "next"); os.rename("next", "flip")
    os.symlink("real", "next"); os.rename("next", "flip")
`, s.Dir}}); err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			for time.Now().Before(deadline) {
				read("/workspace/race/flip/canary")
				write("/workspace/race/flip/canary")
				_ = s.Chmod(ctx, sandbox.ID, "/workspace/race/flip/canary", 0o777)
				_, _ = s.ListFiles(ctx, sandbox.ID, "/workspace/race/flip")
			}
		})
	}
	group.Wait()

	info, err := os.Stat(canary)
	if err != nil {
		t.Fatalf("the canary is gone: %v", err)
	}
	content, _ := os.ReadFile(canary)
	if string(content) != kept || info.Mode().Perm() != 0o644 {
		t.Errorf("the canary changed: %q, %v", content, info.Mode())
	}
}

// TestLargeFile: what goes in comes out, byte for byte.
func TestLargeFile(t *testing.T) {
	s := start(t)
	sandbox := s.spawn(client.SpawnRequest{DiskMB: 1024})
	before := s.memory()
	const size = 300 << 20
	sent := sha256.New()
	if _, err := s.Upload(t.Context(), sandbox.ID, "/workspace/large", io.TeeReader(io.LimitReader(rand.Reader, size), sent), client.UploadOptions{}); err != nil {
		t.Fatal(err)
	}
	body, err := s.Download(t.Context(), sandbox.ID, "/workspace/large")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	got := sha256.New()
	n, err := io.Copy(got, body)
	if err != nil || n != size || !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
		t.Errorf("%d bytes came back, %v", n, err)
	}
	if grown := s.memory() - before; grown > mayGrow {
		t.Errorf("server memory grew by %d MiB", grown>>20)
	}
}
