//go:build cluster

package system

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/test/harness"
)

// TestClusterLargeTransfers: a file of 1 GiB goes to a sandbox of another machine and comes back,
// and 256 MiB of output are streamed, hash for hash. Neither the control plane nor the worker
// keeps them in memory.
func TestClusterLargeTransfers(t *testing.T) {
	const file, stream = 1 << 30, 256 << 20
	c := startCluster(t, 1, 1)
	p := c.planes[0]
	box, err := p.Spawn(t.Context(), client.SpawnRequest{Provider: "gvisor", DiskMB: 2048, MemoryMB: 512, TTL: "1h"})
	c.must(err)
	_, err = c.shell(p, box.ID, "true")
	c.must(err)
	watch := c.watchMemory()

	began, sent := time.Now(), sha256.New()
	_, err = p.Upload(t.Context(), box.ID, "/workspace/large", io.TeeReader(io.LimitReader(rand.Reader, file), sent), client.UploadOptions{})
	c.must(err)
	up := time.Since(began)
	body, err := p.Download(t.Context(), box.ID, "/workspace/large")
	c.must(err)
	defer body.Close()
	began = time.Now()
	got := sha256.New()
	if n, err := io.Copy(got, body); err != nil || n != file || !bytes.Equal(got.Sum(nil), sent.Sum(nil)) {
		t.Errorf("%d bytes came back, %v; equal: %v", n, err, bytes.Equal(got.Sum(nil), sent.Sum(nil)))
	}
	t.Logf("1 GiB up in %v, down in %v", up.Round(time.Millisecond), time.Since(began).Round(time.Millisecond))

	began = time.Now()
	hash, count := sha256.New(), 0
	process, err := p.Start(t.Context(), box.ID, client.ExecRequest{Lossless: true, Command: fmt.Sprintf("head -c %d /workspace/large", stream)})
	c.must(err)
	var exit *client.Exit
	for event, err := range p.Output(t.Context(), box.ID, process.ID, client.OutputRequest{}) {
		c.must(err)
		hash.Write(event.Data)
		count += len(event.Data)
		if exit = event.Exit; event.Gap > 0 {
			t.Errorf("%d bytes are missing", event.Gap)
		}
	}
	if exit == nil || exit.Code != 0 || count != stream || hex.EncodeToString(hash.Sum(nil)) != exit.StdoutSHA256 {
		t.Errorf("%d bytes with hash %x; the process says %+v", count, hash.Sum(nil), exit)
	}
	head, err := c.shell(p, box.ID, fmt.Sprintf("head -c %d /workspace/large | sha256sum", stream))
	c.must(err)
	if want := hex.EncodeToString(hash.Sum(nil)); !strings.HasPrefix(head, want) {
		t.Errorf("streamed %s of a file with %s", want, head)
	}
	t.Logf("256 MiB streamed in %v", time.Since(began).Round(time.Millisecond))
	watch()
}

// watchMemory looks at every process of the cluster from now on; the function that it gives ends
// that and judges.
func (c *cluster) watchMemory() (judge func()) {
	programs := map[string]*harness.Program{}
	for _, p := range c.planes {
		programs["the control plane "+p.URL()] = &p.Program
	}
	for _, w := range c.workers {
		programs["the worker "+w.ID] = &w.Program
	}
	before, peak := map[string]int64{}, map[string]int64{}
	look := func(into map[string]int64) {
		for name, program := range programs {
			if bytes, err := program.Memory(); err == nil {
				into[name] = max(into[name], bytes)
			}
		}
	}
	look(before)
	ctx, stop := context.WithCancel(c.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ticks := time.NewTicker(50 * time.Millisecond); ; {
			select {
			case <-ctx.Done():
				ticks.Stop()
				return
			case <-ticks.C:
				look(peak)
			}
		}
	}()
	return func() {
		stop()
		<-done
		for name := range programs {
			grown := peak[name] - before[name]
			c.Logf("%s: %d MiB of memory before, %d MiB at its highest", name, before[name]>>20, peak[name]>>20)
			if before[name] == 0 || grown > mayGrow {
				c.Errorf("%s grew by %d MiB", name, grown>>20)
			}
		}
	}
}
