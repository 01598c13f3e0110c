package agent

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/guest"
)

func TestGlob(t *testing.T) {
	onBothRoots(t, func(t *testing.T, c *guest.Client, dir, base string) {
		for _, name := range []string{"/p/a.go", "/p/b.txt", "/p/q/c.go", "/p/q/r/d.go", "/p/.hidden/e.go"} {
			put(t, c, base+name, 0, "")
		}
		must(t, os.Symlink("..", filepath.Join(dir, "p/q/up")))
		must(t, os.Symlink("nowhere", filepath.Join(dir, "p/dangling")))
		for pattern, want := range map[string][]string{
			"/p/*.go":             {"/p/a.go"},
			"/p/**/*.go":          {"/p/.hidden/e.go", "/p/a.go", "/p/q/c.go", "/p/q/r/d.go"},
			"/p/{a,b,a}.*":        {"/p/a.go", "/p/b.txt"},
			"/p/q/up/*.txt":       {"/p/q/up/b.txt"}, // a link that is named
			"/p/dangling":         {"/p/dangling"},
			"/p//q/../[ab].go":    {"/p/a.go"},
			"/none/*":             {},
			"/p/a.go/*":           {},
			"/p/**/up/**/none.go": {},
		} {
			got, err := c.GlobFiles(t.Context(), base+pattern)
			for i := range got {
				got[i] = strings.TrimPrefix(got[i], base)
			}
			if err != nil || !slices.Equal(got, want) {
				t.Errorf("%s: %q, %v", pattern, got, err)
			}
		}
	})
}

func TestGlobIsBounded(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "c", "d"} {
		must(t, os.MkdirAll(filepath.Join(dir, name, name, name), 0o755))
	}
	s := &fileService{root: "/", most: 100}
	_, err := glob(&globbed{ctx: t.Context(), t: whole{}, service: s, left: 10}, dir+"/**")
	if connect.CodeOf(err) != connect.CodeOutOfRange {
		t.Errorf("too much work: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := glob(&globbed{ctx: ctx, t: whole{}, service: s, left: maxVisited}, dir+"/**"); err == nil {
		t.Error("a glob goes on without its caller")
	}
	if paths, err := glob(&globbed{ctx: t.Context(), t: whole{}, service: s, left: maxVisited}, "/"); err != nil || !slices.Equal(paths, []string{"/"}) {
		t.Errorf("the root: %q, %v", paths, err)
	}
}

func TestListingIsBounded(t *testing.T) {
	dir := t.TempDir()
	s := &fileService{root: "/", most: 3000}
	for i := range s.most {
		must(t, os.Mkdir(filepath.Join(dir, strconv.Itoa(i)), 0o700))
	}
	names, err := s.namesIn(t.Context(), whole{}, dir)
	if err != nil || len(names) != s.most || !slices.IsSorted(names) {
		t.Errorf("%d listed, %v", len(names), err)
	}
	if _, err := glob(&globbed{ctx: t.Context(), t: whole{}, service: s, left: maxVisited}, dir+"/*"); err != nil {
		t.Error(err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "x"), nil, 0o600))
	if _, err := s.namesIn(t.Context(), whole{}, dir); connect.CodeOf(err) != connect.CodeOutOfRange {
		t.Errorf("one too many listed: %v", err)
	}
	if _, err := glob(&globbed{ctx: t.Context(), t: whole{}, service: s, left: maxVisited}, dir+"/*"); connect.CodeOf(err) != connect.CodeOutOfRange {
		t.Errorf("one too many matched: %v", err)
	}
}
