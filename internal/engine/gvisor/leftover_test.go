package gvisor_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stacyvm/stacyvm/internal/testneed"
)

// TestLeftoverFilter: nobody takes a program of system call filters from the engine's directory,
// where an earlier build may have left one that gVisor cannot use, and that cannot be replaced.
func TestLeftoverFilter(t *testing.T) {
	testneed.GVisor(t)
	dir := t.TempDir()
	defer audit(t, dir)
	name := fmt.Sprintf("GOARCH=%q Platform=\"systrap\" HostNetwork=false HostNetworkRawSockets=false HostFilesystem=true "+
		"ProfileEnable=false Instrumentation=false NVProxy=false NVProxyCaps= TPUProxy=false CgoEnabled=false "+
		"PluginNetwork=false", runtime.GOARCH)
	text, err := json.Marshal(map[string]any{
		"Name": name, "Bytecode32": []uint32{6, 0x7fff0000}, // it would allow everything
		"VarOffsets": map[string][]int{}, // and lacks the variables
	})
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "filter.json"), text, 0o600)
	}
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "filter.json.new"), 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	e := reopen(t, dir)
	defer e.Close()
	i, err := e.Create(t.Context(), spec(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := i.Destroy(t.Context()); err != nil {
		t.Error(err)
	}
}
