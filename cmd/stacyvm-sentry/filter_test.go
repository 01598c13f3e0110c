package main

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/runsc/boot/filter"
	filterconfig "gvisor.dev/gvisor/runsc/boot/filter/config"
	"gvisor.dev/gvisor/runsc/config"
)

// TestFilter: the program that the launcher builds is the one that a sentry would build for itself.
func TestFilter(t *testing.T) {
	share(t)
	for range 2 { // they share the file's position
		clear(precompiled)
		if err := registerFilter(filterDescriptor); err != nil {
			t.Fatal(err)
		}
	}
	options := sentryOptions(t)
	options.ControllerFD = 14
	found, ok := filter.GetPrecompiled(options.ConfigKey())
	if !ok {
		t.Fatalf("a sentry with %s finds none, only %v", options.ConfigKey(), filter.ListPrecompiled())
	}
	got, err := found.RenderInstructions(options.Vars())
	if err != nil {
		t.Fatal(err)
	}
	allow, deny := filterconfig.Rules(options)
	own := seccomp.Program{
		RuleSets: []seccomp.RuleSet{{Rules: deny}, {Rules: allow, Action: seccomp.Allow}},
		Options:  filterconfig.SeccompOptions(options),
	}
	want, _, err := own.Build()
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, want) {
		t.Errorf("%d instructions instead of %d, or others", len(got), len(want))
	}
}

// share builds the program as the launcher does, for as long as the test runs.
func share(t *testing.T) {
	t.Helper()
	if err := shareFilter(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		clear(precompiled)
		if err := unix.Close(filterDescriptor); err != nil {
			t.Error(err)
		}
	})
}

// TestFilterIsInherited starts processes as the launcher does, before and after it has the program.
func TestFilterIsInherited(t *testing.T) {
	for _, want := range []string{"false", "true"} {
		if want == "true" {
			share(t)
		}
		sentry := exec.Command(os.Args[0], "-test.run=^TestSentry$")
		sentry.Env = append(os.Environ(), "STACYVM_TEST_SENTRY="+want)
		if output, err := sentry.CombinedOutput(); err != nil {
			t.Errorf("inherited %s: %v\n%s", want, err, output)
		}
	}
}

// TestSentry is the process that TestFilterIsInherited starts.
func TestSentry(t *testing.T) {
	want := os.Getenv("STACYVM_TEST_SENTRY")
	if want == "" {
		t.Skip("no process of another test's")
	}
	args := os.Args
	defer func() { os.Args = args }()
	os.Args = []string{"runsc-sandbox", "boot"}
	useFilter() // the sentry executes itself again
	os.Args = append(os.Args, "--setup-root=false")
	useFilter()
	if _, found := filter.GetPrecompiled(sentryOptions(t).ConfigKey()); strconv.FormatBool(found) != want {
		t.Errorf("found: %v", found)
	}
	if _, err := unix.FcntlInt(filterDescriptor, unix.F_GETFD, 0); err != unix.EBADF {
		t.Errorf("it stays open: %v", err)
	}
}

// TestForeignFilter: what is not whole, or not of a launcher of this build, is not used.
func TestForeignFilter(t *testing.T) {
	program, err := compileFilter()
	if err != nil {
		t.Fatal(err)
	}
	right := encode(t, program)
	lacking := program
	lacking.VarOffsets = maps.Clone(program.VarOffsets)
	for name := range lacking.VarOffsets {
		delete(lacking.VarOffsets, name)
		break
	}
	other := program
	other.Name += " Other=true"
	open := precompiledseccomp.Program{Name: program.Name, Bytecode32: []uint32{6, uint32(linux.SECCOMP_RET_ALLOW)}}
	path := filepath.Join(t.TempDir(), "filter.json")
	if err := os.WriteFile(path, right, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]func() (*os.File, error){
		"a file":            func() (*os.File, error) { return os.Open(path) },
		"memory, not whole": func() (*os.File, error) { return sealedMemory(right[:len(right)/2]) },
		"empty memory":      func() (*os.File, error) { return sealedMemory(nil) },
		"not sealed":        func() (*os.File, error) { return openMemory(right) },
		"a variable less":   func() (*os.File, error) { return sealedMemory(encode(t, lacking)) },
		"another key":       func() (*os.File, error) { return sealedMemory(encode(t, other)) },
		"allows everything": func() (*os.File, error) { return sealedMemory(encode(t, open)) },
	} {
		clear(precompiled)
		memory, err := from()
		if err != nil {
			t.Fatal(err)
		}
		if err := registerFilter(int(memory.Fd())); err == nil || len(precompiled) > 0 {
			t.Errorf("%s is used: %v", name, err)
		}
		memory.Close()
	}
}

func encode(t *testing.T, program precompiledseccomp.Program) []byte {
	t.Helper()
	text, err := json.Marshal(program)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// openMemory gives memory that everybody who has it can change.
func openMemory(text []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("filter", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	memory := os.NewFile(uintptr(fd), "filter")
	_, err = memory.Write(text)
	return memory, err
}

// sentryOptions are what gVisor's loader makes of our configuration.
func sentryOptions(t *testing.T) filterconfig.Options {
	t.Helper()
	conf, err := sandboxConfig("root", "root:self")
	if err != nil {
		t.Fatal(err)
	}
	options, err := filterOptions()
	if err != nil {
		t.Fatal(err)
	}
	host := conf.Network == config.NetworkHost
	return filterconfig.Options{
		Platform:              options.Platform,
		HostNetwork:           host,
		HostNetworkRawSockets: host && conf.EnableRaw,
		HostFilesystem:        conf.DirectFS,
		ProfileEnable:         conf.ProfileEnable,
		NVProxy:               conf.NVProxy,
		TPUProxy:              conf.TPUProxy,
		CgoEnabled:            config.CgoEnabled,
		PluginNetwork:         conf.Network == config.NetworkPlugin,
	}
}
