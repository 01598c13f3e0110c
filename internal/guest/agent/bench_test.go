package agent

import (
	"context"
	"net"
	"os/exec"
	"path/filepath"
	"testing"

	"connectrpc.com/connect"

	"github.com/stacyvm/stacyvm/internal/guest"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
	"github.com/stacyvm/stacyvm/proto/guest/v1/guestv1connect"
)

// BenchmarkRunTrue is a whole command over a connection; compare BenchmarkForkExec, which is what
// of it the kernel takes.
func BenchmarkRunTrue(b *testing.B) {
	dir := b.TempDir()
	secret := guest.NewSecret()
	a, err := New(Config{Root: dir, SpillDir: filepath.Join(dir, "spill")}, guest.Boot{Secret: secret})
	if err != nil {
		b.Fatal(err)
	}
	defer a.Close()
	ours, theirs, err := socketPair()
	if err != nil {
		b.Fatal(err)
	}
	go a.ServeConn(context.Background(), theirs)
	client := httpClient(func(context.Context, string, string) (net.Conn, error) { return ours, nil })
	processes := guestv1connect.NewProcessServiceClient(client, "http://guest", connect.WithInterceptors(bearer(secret)))
	for b.Loop() {
		stream, err := processes.Run(b.Context(), connect.NewRequest(&guestv1.StartRequest{Argv: []string{"/bin/true"}}))
		if err != nil {
			b.Fatal(err)
		}
		for stream.Receive() {
		}
		if err := stream.Err(); err != nil {
			b.Fatal(err)
		}
		stream.Close()
	}
}

// BenchmarkForkExec runs the same program without an agent.
func BenchmarkForkExec(b *testing.B) {
	for b.Loop() {
		if err := exec.Command("/bin/true").Run(); err != nil {
			b.Fatal(err)
		}
	}
}
