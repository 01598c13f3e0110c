package doctor

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stacyvm/stacyvm/client"
	"github.com/stacyvm/stacyvm/internal/config"
	"github.com/stacyvm/stacyvm/internal/daemon/daemontest"
	"github.com/stacyvm/stacyvm/internal/testneed"
)

// fillDisk writes a file until nothing more fits beside it.
func fillDisk(t *testing.T, path string) {
	t.Helper()
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for size := 1 << 20; size >= 512; size /= 2 {
		for err = nil; err == nil; {
			_, err = file.Write(make([]byte, size))
		}
	}
}

// TestServeOnAFullDisk: creates and writes are refused, and /ready says why; kills go on, and so
// does a start; with room again all is well.
func TestServeOnAFullDisk(t *testing.T) {
	c := daemontest.Config(t)
	c.DataDir, c.Server.Port, c.Database.Path = testneed.Tmpfs(t, 128<<20), 0, ""
	c.Providers.Default, c.Providers.Mock.Enabled, c.Providers.GVisor.Enabled = "mock", true, false
	address, end := running(t, c)
	caller := daemontest.ClientAt(t, address, nil)
	spawn := func() (client.Sandbox, error) {
		return caller.Spawn(t.Context(), client.SpawnRequest{Provider: "mock"})
	}
	first, second := must[client.Sandbox](t)(spawn()), must[client.Sandbox](t)(spawn())
	if problems := readiness(t, address, http.StatusOK); len(problems) > 0 {
		t.Errorf("with room: %q", problems)
	}
	ballast := filepath.Join(c.DataDir, "ballast")
	fillDisk(t, ballast)
	if _, err := spawn(); client.CodeOf(err) != client.CodeStorageFull {
		t.Errorf("a create: %v", err)
	}
	if _, err := caller.Upload(t.Context(), first.ID, "/tmp/x", strings.NewReader("x"), client.UploadOptions{}); client.CodeOf(err) != client.CodeStorageFull {
		t.Errorf("a write: %v", err)
	}
	if problems := readiness(t, address, http.StatusServiceUnavailable); len(problems) != 1 {
		t.Errorf("without room: %q", problems)
	}
	if err := caller.Destroy(t.Context(), first.ID); err != nil {
		t.Errorf("a kill: %v", err)
	}
	end()
	fillDisk(t, ballast)
	check := checkDataDir(c)
	if check.Level != config.Fail && check.Level != config.Warn || !strings.Contains(check.Message, "MiB free") {
		t.Errorf("doctor says %+v", check)
	}
	address, end = running(t, c)
	caller = daemontest.ClientAt(t, address, nil)
	if err := caller.Destroy(t.Context(), second.ID); err != nil {
		t.Errorf("a kill after a start on a full disk: %v", err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if _, err := spawn(); err != nil {
		t.Errorf("with room again: %v", err)
	}
	_ = readiness(t, address, http.StatusOK)
	end()
}

// readiness asks /ready and gives the problems that it tells.
func readiness(t *testing.T, address string, status int) (problems []string) {
	t.Helper()
	web := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	answer, err := web.Get(address + "/api/v1/ready")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	var body struct{ Problems []string }
	if err := json.NewDecoder(answer.Body).Decode(&body); err != nil {
		t.Fatal(err)
	}
	if answer.StatusCode != status {
		t.Errorf("/ready answers %s, want %d", answer.Status, status)
	}
	return body.Problems
}

// TestDoctorNamesTheLargest sandboxes of a data directory that is nearly full, also where their
// disk is a file that was removed, as gVisor's is.
func TestDoctorNamesTheLargest(t *testing.T) {
	dir := t.TempDir()
	sizes := map[string]int{"sb-small": 1 << 20, "sb-large": 5 << 20, "sb-middle": 3 << 20}
	for id, size := range sizes {
		home := filepath.Join(dir, "engines", "gvisor", "sandboxes", id, "disk")
		if err := os.MkdirAll(home, 0o700); err != nil {
			t.Fatal(err)
		}
		file, err := os.Create(filepath.Join(home, "filestore"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.Write(make([]byte, size)); err != nil {
			t.Fatal(err)
		}
		if id == "sb-small" {
			continue
		}
		if err := os.Remove(file.Name()); err != nil {
			t.Fatal(err)
		}
	}
	text := largest(dir)
	places := []int{strings.Index(text, "sb-large"), strings.Index(text, "sb-middle"), strings.Index(text, "sb-small")}
	if slices.Contains(places, -1) || !slices.IsSorted(places) || largest(t.TempDir()) != "" {
		t.Errorf("%q", text)
	}
}
