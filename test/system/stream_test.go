package system

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

const mayGrow = 64 << 20 // bytes of server memory, in each test here

// TestSlowReader: 128 MiB of random bytes, or 512 with STACYVM_TEST_LONG, read at 1 MiB/s at first
// and then as fast as they come, arrive whole, while the server keeps no more of them than its
// buffers hold.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	s := start(t)
	sandbox := s.spawn(client.SpawnRequest{})
	before := s.memory()

	size := testneed.Often(128, 512) << 20
	// The hash is taken inside and comes over standard error.
	program := fmt.Sprintf(`head -c %d /dev/urandom | python3 -c 'import sys,hashlib
h = hashlib.sha256()
while b := sys.stdin.buffer.read(65536):
    h.update(b); sys.stdout.buffer.write(b)
sys.stderr.write(h.hexdigest())'`, size)
	request, err := json.Marshal(map[string]any{"command": program, "stream": true, "encoding": "base64"})
	if err != nil {
		t.Fatal(err)
	}
	response, err := http.Post(s.URL()+"/api/v1/sandboxes/"+sandbox.ID+"/exec", "application/json", bytes.NewReader(request))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(response.Body)
		t.Fatalf("status %d: %s", response.StatusCode, text)
	}

	hash, count, peak := sha256.New(), 0, int64(0)
	var inside strings.Builder
	var last struct {
		ExitCode *int `json:"exit_code"`
	}
	slowly := &slowReader{reader: response.Body, perSecond: 1 << 20, until: time.Now().Add(15 * time.Second)}
	for decoder := json.NewDecoder(slowly); ; {
		var frame struct {
			Stream   string `json:"stream"`
			Data     string `json:"data_base64"`
			ExitCode *int   `json:"exit_code"`
		}
		if err := decoder.Decode(&frame); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("after %d bytes: %v", count, err)
		}
		data, err := base64.StdEncoding.DecodeString(frame.Data)
		if err != nil {
			t.Fatal(err)
		}
		if frame.Stream == "stderr" {
			inside.Write(data)
		} else {
			hash.Write(data)
			count += len(data)
		}
		last.ExitCode = frame.ExitCode
		peak = max(peak, s.memory())
	}
	if got := hex.EncodeToString(hash.Sum(nil)); count != size || got != inside.String() {
		t.Errorf("%d bytes with hash %s, want %d with %s", count, got, size, inside.String())
	}
	if last.ExitCode == nil || *last.ExitCode != 0 {
		t.Errorf("the last frame holds no exit code 0")
	}
	t.Logf("server memory: %d MiB before, %d MiB at its highest", before>>20, peak>>20)
	if peak-before > mayGrow {
		t.Errorf("server memory grew by %d MiB", (peak-before)>>20)
	}
}

// slowReader holds its reader to a rate until a moment.
type slowReader struct {
	reader    io.Reader
	perSecond int
	until     time.Time
}

func (r *slowReader) Read(p []byte) (int, error) {
	if !time.Now().Before(r.until) {
		return r.reader.Read(p)
	}
	n, err := r.reader.Read(p[:min(len(p), r.perSecond/50)])
	time.Sleep(time.Second * time.Duration(n) / time.Duration(r.perSecond)) // the rate is what is tested
	return n, err
}

// TestThousandsOfCommands: each of 2,500 short commands, or 10,000 with STACYVM_TEST_LONG, gives
// its exact output and exit code.
func TestThousandsOfCommands(t *testing.T) {
	s := start(t)
	const clients = 4
	commands := testneed.Often(2_500, 10_000)
	var boxes []client.Sandbox
	for range clients {
		boxes = append(boxes, s.spawn(client.SpawnRequest{}))
	}
	s.shell(boxes[0].ID, "true")
	before := s.memory()
	var group errgroup.Group
	for worker, box := range boxes {
		group.Go(func() error {
			for i := worker; i < commands; i += clients {
				text := fmt.Sprintf("echo out %d; echo err %d >&2; exit %d", i, i, i%256)
				result, err := s.Exec(t.Context(), box.ID, client.ExecRequest{Command: text})
				if err != nil {
					return fmt.Errorf("command %d: %w", i, err)
				}
				if result.Stdout != fmt.Sprintf("out %d\n", i) || result.Stderr != fmt.Sprintf("err %d\n", i) || result.ExitCode != i%256 {
					return fmt.Errorf("command %d gave %+v", i, result)
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, s.Log())
	}
	after := s.memory()
	t.Logf("server memory: %d MiB before, %d MiB after", before>>20, after>>20)
	if after-before > mayGrow {
		t.Errorf("server memory grew by %d MiB", (after-before)>>20)
	}
}
