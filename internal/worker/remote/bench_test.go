package remote_test

import (
	"bytes"
	"crypto/sha256"
	"testing"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/stacyvm"
	"github.com/stacyvm/stacyvm/internal/worker"
)

// BenchmarkWorker is what a worker on another machine costs more than a local one, the network
// aside: the same calls on the same worker, called in process and over mTLS.
func BenchmarkWorker(b *testing.B) {
	far := openLocal(b)
	client, _ := overMTLS(b).connect(b, far.worker, nil)
	ref := fresh()
	create(b, far.worker, ref)
	for _, way := range []struct {
		name   string
		worker worker.Worker
	}{{"local", far.worker}, {"remote", client}} {
		b.Run("guest/"+way.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := way.worker.Guest(b.Context(), ref, guest.ScopeExec); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run("exec/"+way.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				o, err := reach(b, way.worker, ref, guest.ScopeExec).Run(b.Context(), stacyvm.Command{Argv: []string{"/bin/true"}})
				if err != nil {
					b.Fatal(err)
				}
				if exit := drain(b, o, sha256.New()); exit.Code != 0 {
					b.Fatal(exit)
				}
			}
		})
		content := make([]byte, 8<<20)
		b.Run("write 8 MiB/"+way.name, func(b *testing.B) {
			b.SetBytes(int64(len(content)))
			files := reach(b, way.worker, ref, guest.ScopeFiles)
			for b.Loop() {
				if _, err := files.WriteFile(b.Context(), "/workspace/f", 0, "", bytes.NewReader(content)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
