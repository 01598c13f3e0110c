package image

import (
	"testing"
)

func TestHostOnThisMachine(t *testing.T) {
	store, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	root, err := store.Resolve(t.Context(), Host, "a")
	if err != nil {
		t.Fatal(err)
	}
	t.Log(root)
}

func BenchmarkResolveHost(b *testing.B) {
	store, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := store.Resolve(b.Context(), Host, "a"); err != nil {
			b.Fatal(err)
		}
	}
}
