package agent

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"connectrpc.com/connect"
)

func TestAlternatives(t *testing.T) {
	for pattern, want := range map[string]int{
		"": 1, "a/*": 1, "{a,b}": 2, "{a,b}{c,d}": 4, "{a,{b,c},d}": 4, "{a,b{c,d}{e,f}}": 5, "{}": 1, `\{a,b\}`: 1, "[{,]": 1, "[{,]{a,b}": 2, "a,b": 1, "{,a}": 2,
		strings.Repeat("{a,b}", 9):                            512,
		strings.Repeat("{a,b}", 10):                           maxAlternatives + 1,
		strings.Repeat("{a,b}", 800):                          maxAlternatives + 1,
		strings.Repeat("{a,", 800) + strings.Repeat("}", 800): 801,
	} {
		if got := alternatives(pattern); got != want {
			t.Errorf("%.40q: %d, want %d", pattern, got, want)
		}
	}
}

// TestAGlobEndsInTime: when its time is over while names are compared, a glob answers that it
// takes too long, and gives nothing.
func TestAGlobEndsInTime(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	service := &fileService{root: "/", most: mostListed}
	ctx, cancel := context.WithCancelCause(t.Context())
	g := &globbed{ctx: ctx, t: whole{}, service: service, left: maxVisited}
	if paths, err := glob(g, root+"/*"); err != nil || len(paths) != 3 {
		t.Fatalf("%v, %v", paths, err)
	}
	cancel(errSlowGlob)
	if paths, err := glob(g, root+"/*"); connect.CodeOf(err) != connect.CodeOutOfRange || paths != nil {
		t.Errorf("%v, %v", paths, err)
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	if name := (globEntry{entries[0], ctx}).Name(); name != "" {
		t.Errorf("a name is told after the time: %q", name)
	}
}
