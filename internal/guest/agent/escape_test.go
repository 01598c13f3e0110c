package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
)

// canaries makes a private root and, beside it, files that nothing may touch.
func canaries(t *testing.T) (root, outside string) {
	t.Helper()
	parent := t.TempDir()
	root, outside = filepath.Join(parent, "root"), filepath.Join(parent, "outside")
	must(t, os.MkdirAll(filepath.Join(root, "dir"), 0o755))
	must(t, os.MkdirAll(filepath.Join(outside, "dir"), 0o755))
	for _, name := range []string{"secret", "dir/secret"} {
		must(t, os.WriteFile(filepath.Join(outside, name), []byte("canary"), 0o640))
	}
	return root, outside
}

func checkCanaries(t *testing.T, outside string) {
	t.Helper()
	var found []string
	must(t, filepath.WalkDir(outside, func(path string, entry os.DirEntry, err error) error {
		found = append(found, strings.TrimPrefix(path, outside))
		return err
	}))
	if strings.Join(found, " ") != " /dir /dir/secret /secret" {
		t.Errorf("outside there is now %q", found)
	}
	for _, name := range []string{"secret", "dir/secret"} {
		content, err := os.ReadFile(filepath.Join(outside, name))
		info, statErr := os.Stat(filepath.Join(outside, name))
		if err != nil || statErr != nil || string(content) != "canary" || info.Mode().Perm() != 0o640 {
			t.Errorf("%s was touched: %q, %v, %v", name, content, info.Mode(), err)
		}
	}
}

// attack tries every operation on a path that leads outside, and gives what a read saw.
func attack(ctx context.Context, c *guest.Client, dir string) (seen []string) {
	if _, body, err := c.ReadFile(ctx, dir+"/secret"); err == nil {
		content := make([]byte, 6)
		n, _ := body.Read(content)
		_ = body.Close()
		seen = append(seen, string(content[:n]))
	}
	_, _ = c.WriteFile(ctx, dir+"/secret", 0o777, "", strings.NewReader("overwritten"))
	_, _ = c.WriteFile(ctx, dir+"/made/here", 0, "", strings.NewReader("made"))
	if list, err := c.ListFiles(ctx, dir); err == nil {
		for _, info := range list {
			if info.Mode == 0o640 {
				seen = append(seen, info.Path)
			}
		}
	}
	if info, err := c.StatFile(ctx, dir+"/secret"); err == nil && info.Mode == 0o640 {
		seen = append(seen, info.Path)
	}
	_ = c.MakeDir(ctx, dir+"/new", 0)
	_ = c.ChmodFile(ctx, dir+"/secret", 0o666)
	_ = c.MoveFile(ctx, dir+"/secret", "/stolen")
	_ = c.MoveFile(ctx, "/bait", dir+"/bait")
	_ = c.RemoveFile(ctx, dir+"/secret", false)
	_ = c.RemoveFile(ctx, dir+"/dir", true)
	return seen
}

func TestNothingLeadsOutOfAPrivateRoot(t *testing.T) {
	root, outside := canaries(t)
	c, _, _ := serveServices(t, root)
	must(t, os.Symlink(outside, filepath.Join(root, "absolute")))
	must(t, os.Symlink("../outside", filepath.Join(root, "relative")))
	must(t, os.Symlink("../../../../../../../../"+outside, filepath.Join(root, "dir/far")))
	must(t, os.Symlink("dir/far", filepath.Join(root, "chain")))
	for _, dir := range []string{"/absolute", "/relative", "/dir/far", "/chain", "/../outside", "/dir/../../outside", "../../outside", outside, "/dir/../.." + outside} {
		must(t, os.WriteFile(filepath.Join(root, "bait"), []byte("bait"), 0o600))
		if seen := attack(t.Context(), c, dir); len(seen) > 0 {
			t.Errorf("%s shows %q", dir, seen)
		}
		checkCanaries(t, outside)
	}
	for _, link := range []string{"/absolute/secret", "/relative/secret"} {
		_, _, err := c.ReadFile(t.Context(), link)
		wantFailure(t, link, err, stacyvm.CodeInvalid)
	}
	if paths, err := c.GlobFiles(t.Context(), "/*/**"); err != nil || strings.Contains(strings.Join(paths, " "), "secret") {
		t.Errorf("a glob found %q, %v", paths, err)
	}
}

// TestNoRaceLeadsOutOfAPrivateRoot exchanges a directory and a link that leads outside, as fast as
// it can, while files are used through that name.
func TestNoRaceLeadsOutOfAPrivateRoot(t *testing.T) {
	root, outside := canaries(t)
	c, _, _ := serveServices(t, root)
	must(t, os.Symlink("../outside", filepath.Join(root, "link")))
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	done := make(chan int)
	go func() {
		swaps := 0
		for ctx.Err() == nil {
			a, b := filepath.Join(root, "dir"), filepath.Join(root, "link")
			if unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE) == nil {
				swaps++
			}
		}
		done <- swaps
	}()
	rounds := 0
	for ctx.Err() == nil {
		_ = os.WriteFile(filepath.Join(root, "bait"), []byte("bait"), 0o600)
		for _, dir := range []string{"/dir", "/link"} {
			for _, seen := range attack(ctx, c, dir) {
				if seen == "canary" || strings.HasSuffix(seen, "secret") {
					t.Fatalf("%s shows %q", dir, seen)
				}
			}
		}
		rounds++
	}
	if swaps := <-done; swaps < 100 || rounds < 10 {
		t.Errorf("only %d exchanges in %d rounds", swaps, rounds)
	}
	checkCanaries(t, outside)
}
