//go:build cluster

package system

import (
	"fmt"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// TestClusterQuietCommand: a command on another machine that says nothing for long is not cut,
// whichever way it is read. With STACYVM_TEST_LONG it is quiet for 20 minutes, otherwise for
// longer than every keepalive, idle limit, lease and renewal on the way.
func TestClusterQuietCommand(t *testing.T) {
	quiet := time.Duration(testneed.Often(75, 20*60)) * time.Second
	c := startCluster(t, 1, 1)
	p := c.planes[0]
	box, err := p.Spawn(t.Context(), client.SpawnRequest{Provider: "gvisor", TTL: "1h"})
	c.must(err)
	text := fmt.Sprintf("sleep %d; echo out; echo err >&2; exit 3", int(quiet.Seconds()))

	answered := make(chan client.ExecResult, 1)
	go func() {
		result, err := p.Exec(t.Context(), box.ID, client.ExecRequest{Command: text, Timeout: (quiet + time.Minute).String()})
		c.check(err)
		answered <- result
	}()
	process, err := p.Start(t.Context(), box.ID, client.ExecRequest{Command: text})
	c.must(err)
	began, out, code := time.Now(), "", -1
	for event, err := range p.Output(t.Context(), box.ID, process.ID, client.OutputRequest{}) {
		c.must(err)
		out += string(event.Data)
		if event.Exit != nil {
			code = event.Exit.Code
		}
	}
	if took := time.Since(began); took < quiet-time.Second || code != 3 || len(out) != len("out\nerr\n") {
		t.Errorf("after %v the stream ended with %q and exit code %d", took, out, code)
	}
	if result := <-answered; result.ExitCode != 3 || result.Stdout != "out\n" || result.Stderr != "err\n" {
		t.Errorf("the answer is %+v", result)
	}
}
