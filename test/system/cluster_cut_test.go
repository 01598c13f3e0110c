//go:build cluster

package system

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/store/postgrestest"
	"github.com/stacyvm/stacyvm/test/harness"
)

// refuseWithin is how soon a command for a sandbox on a worker that gives no sign of life is
// refused, on a busy machine too.
const refuseWithin = 10 * time.Second

// insider calls a worker from within its own machine, as a control plane with a good certificate
// that was not cut off.
type insider struct {
	c       *cluster
	w       *harness.Worker
	http    *http.Client
	sandbox string
}

func (c *cluster) insider(w *harness.Worker, sandbox string) *insider {
	c.Helper()
	file := filepath.Join(c.dir, planeName(0), "pki", "server-"+c.network.Address+".pem")
	certificate, err := tls.LoadX509KeyPair(file, file)
	c.must(err)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) { return w.Machine.Dial(ctx, address) },
		// Whom it calls is certain: it dials within the machine.
		TLSClientConfig:   &tls.Config{Certificates: []tls.Certificate{certificate}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS13}, //nolint:gosec // see above
		ForceAttemptHTTP2: true,
	}
	c.Cleanup(transport.CloseIdleConnections)
	return &insider{c: c, w: w, http: &http.Client{Transport: transport, Timeout: 5 * time.Second}, sandbox: sandbox}
}

// act starts a command with an epoch. It says whether the worker took it, and else why not.
func (i *insider) act(n int, incarnation, epoch int64) (took bool, why string) {
	body, err := json.Marshal(map[string]any{"id": fmt.Sprintf("insider-%d", n), "argv": []string{"/bin/true"}})
	i.c.must(err)
	url := fmt.Sprintf("https://%s/guest/%s/%d/%d/stacyvm.guest.v1.ProcessService/Start", i.w.Listen, i.sandbox, incarnation, epoch)
	request, err := http.NewRequestWithContext(i.c.Context(), http.MethodPost, url, bytes.NewReader(body))
	i.c.must(err)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Connect-Protocol-Version", "1")
	request.Header.Set("X-Worker-ID", i.w.ID)
	response, err := i.http.Do(request)
	if err != nil {
		return false, err.Error()
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return false, err.Error()
	}
	return response.StatusCode == http.StatusOK, string(text)
}

// fence reads a sandbox's incarnation and epoch, and when the first of its worker's leases could
// be taken over.
func (c *cluster) fence(worker, sandbox string) (incarnation, epoch int64, free time.Time) {
	c.Helper()
	db := postgrestest.Connect(c, c.database.DSN)
	c.must(db.QueryRowContext(c.Context(), `SELECT incarnation, fence FROM sandboxes WHERE id = $1`, sandbox).Scan(&incarnation, &epoch))
	var expires int64
	c.must(db.QueryRowContext(c.Context(), `SELECT MIN(expires_us) FROM leases WHERE holder_id = $1 AND resource_type = 'sandbox'
		AND resource_id IN (SELECT id FROM sandboxes WHERE worker_id = $1 AND state = 'running')`, worker).Scan(&expires))
	return incarnation, epoch, time.UnixMicro(expires).Add(leaseGrace)
}

// cutOff pulls a worker's cable for longer than a lease, while somebody inside keeps asking it to
// act. It must have refused long before its leases could be taken over, go on running what runs,
// and serve again when it is back.
func (c *cluster) cutOff(f *fleet, w *harness.Worker, long time.Duration) {
	c.Helper()
	var box client.Sandbox
	for _, s := range f.alive() {
		if s.Provider == "gvisor" && s.WorkerID == w.ID {
			box = s
		}
	}
	if box.ID == "" {
		c.Fatalf("no gVisor sandbox is on %s", w.ID)
	}
	_, err := c.shell(c.planes[0], box.ID, "(while sleep 1; do echo >> /workspace/beats; done) >/dev/null 2>&1 &")
	c.must(err)
	inside := c.insider(w, box.ID)
	c.must(w.Machine.Cut())
	cut := time.Now()
	soon := make(chan time.Duration, 1)
	go func() { // before anything but silence tells of the cut
		_, err := c.planes[0].impatient.Exec(c.Context(), box.ID, client.ExecRequest{Command: "true"})
		if code := client.CodeOf(err); code != client.CodeUnavailable {
			c.Errorf("a command right after the cut: %v, code %q", err, code)
		}
		soon <- time.Since(cut)
	}()
	time.Sleep(time.Second) // a renewal under way has arrived or never will
	incarnation, epoch, free := c.fence(w.ID, box.ID)
	var last time.Time
	var refusal string
	for n := 0; time.Since(cut) < long; n++ {
		took, why := inside.act(n, incarnation, epoch)
		if took {
			last = time.Now()
		} else {
			refusal = why
		}
		time.Sleep(100 * time.Millisecond)
	}
	switch gap := free.Sub(last); {
	case last.IsZero():
		c.Errorf("the worker took nothing from within, not even at first: %s", refusal)
	case gap < mustGap:
		c.Errorf("the last command was taken %v before a takeover was possible, want %v", gap, mustGap)
	default:
		c.Logf("cut off, the worker took its last command after %v, %v before a takeover was possible: %s",
			last.Sub(cut).Round(100*time.Millisecond), gap.Round(100*time.Millisecond), refusal)
	}
	if took := <-soon; took > refuseWithin {
		c.Errorf("a command right after the cut was refused after %v", took)
	} else {
		c.Logf("a command right after the cut was refused after %v", took.Round(time.Millisecond))
	}
	asked := time.Now()
	_, err = c.planes[0].impatient.Exec(c.Context(), box.ID, client.ExecRequest{Command: "true"})
	// before its record says so, and after
	if code := client.CodeOf(err); code != client.CodeUnavailable && code != client.CodeConflict {
		c.Errorf("a command for a sandbox that is out of reach: %v, code %q", err, code)
	}
	c.Logf("a command for it was refused after %v", time.Since(asked).Round(time.Millisecond))
	c.must(w.Machine.Heal())
	c.until(healWithin, "the worker serves again", func() string {
		if _, err := c.planes[1].impatient.Exec(c.Context(), box.ID, client.ExecRequest{Command: "true"}); err != nil {
			return err.Error()
		}
		return ""
	})
	c.Logf("it served again %v after it was back", time.Since(asked).Round(time.Second))
	out, err := c.shell(c.planes[0], box.ID, "wc -l < /workspace/beats")
	c.check(err)
	var beats int
	if _, err := fmt.Sscan(out, &beats); err != nil || beats < int(long/time.Second)*8/10 {
		c.Errorf("what ran in the sandbox beat %q times in %v", out, time.Since(cut))
	}
}
