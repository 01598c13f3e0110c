package agent

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/stacyvm/stacyvm/internal/guest"
	"github.com/stacyvm/stacyvm/internal/testneed"
	guestv1 "github.com/stacyvm/stacyvm/proto/guest/v1"
)

const (
	quickCommands = 3000
	orphanMakers  = 300
)

// TestReap runs TestAsInit in a process of its own: it collects every child of its process.
func TestReap(t *testing.T) {
	testneed.Patience(t)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe, "-test.run=^TestAsInit$", "-test.v")
	cmd.Env = append(os.Environ(), asInit+"=1")
	output, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(output), "--- PASS: TestAsInit") {
		t.Fatalf("%v\n%s", err, output)
	}
}

// TestAsInit starts quick processes, some of which leave orphans, and wants every exit code and no
// dead process.
func TestAsInit(t *testing.T) {
	if os.Getenv(asInit) == "" {
		t.Skip("runs in a process of its own: see TestReap")
	}
	h := newHost(t, func(config *Config, _ *guest.Boot) { config.Init = true })
	slots := make(chan struct{}, 32)
	var group sync.WaitGroup
	for i := range quickCommands {
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			script := fmt.Sprintf("exit %d", i%256)
			if i%(quickCommands/orphanMakers) == 0 {
				script = "(sleep 0.0" + fmt.Sprint(i%10) + " >&- 2>&-; setsid true >&- 2>&-) & " + script
			}
			if r := h.sh(t, script); r.exit.Code != int32(i%256) || r.exit.Error != "" {
				t.Errorf("%d: %v", i, r.exit)
			}
			if i%50 == 0 {
				if r := h.run(t, &guestv1.StartRequest{Argv: []string{"/etc"}}); r.exit.Code != 126 {
					t.Errorf("%d: %v", i, r.exit)
				}
			}
		})
	}
	group.Wait()
	eventually(t, "no child is left", func() bool {
		var info unix.Siginfo
		return unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) == unix.ECHILD
	})
}
