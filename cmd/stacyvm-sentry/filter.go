package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	_ "unsafe" // for linkname

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/log"
	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/pkg/seccomp/precompiledseccomp"
	"gvisor.dev/gvisor/pkg/sentry/platform"
	"gvisor.dev/gvisor/runsc/boot/filter"
	filterconfig "gvisor.dev/gvisor/runsc/boot/filter/config"
	"gvisor.dev/gvisor/runsc/config"

	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/limits"
)

// A sentry confines itself with a program of system call filters that is the same for every
// sandbox but for a few numbers. gVisor can have it precompiled into its packages; as a Go module it
// has not, and builds it anew in every sentry, which is a tenth of what a create costs. So the
// launcher builds it once, into memory that nobody can change, and its sentries inherit that. There
// is no file of it, which another build could have left. A sentry that inherits none, or cannot use
// it, builds its own.

// filterDescriptor is where the launcher has the program for its sentries, one of the numbers that
// it reserves.
const filterDescriptor = limits.FreeDescriptor

// filterSeals are those of the program's memory.
const filterSeals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// precompiled are gVisor's precompiled programs by their names.
//
//go:linkname precompiled gvisor.dev/gvisor/runsc/boot/filter.precompiledPrograms
var precompiled map[string]precompiledseccomp.Program

// filterRules are gVisor's rules, with stand-ins for the numbers.
//
//go:linkname filterRules gvisor.dev/gvisor/runsc/boot/filter/config.rules
func filterRules(
	filterconfig.Options, precompiledseccomp.Values,
) (allow, deny seccomp.SyscallRules)

// filterOptions are those of our sentries: see gvisor.config.
func filterOptions() (filterconfig.Options, error) {
	constructor, err := platform.Lookup(platformName)
	if err != nil {
		return filterconfig.Options{}, err
	}
	infos := constructor.PrecompiledSeccompInfo()
	if len(infos) != 1 {
		return filterconfig.Options{}, fmt.Errorf("platform %s has %d kinds of filters", platformName, len(infos))
	}
	return filterconfig.Options{Platform: infos[0], HostFilesystem: true, CgoEnabled: config.CgoEnabled}, nil
}

// compileFilter builds the program of our sentries.
func compileFilter() (precompiledseccomp.Program, error) {
	options, err := filterOptions()
	if err != nil {
		return precompiledseccomp.Program{}, err
	}
	var names []string
	for name := range options.Vars() {
		names = append(names, name)
	}
	build := func(values precompiledseccomp.Values) *seccomp.Program {
		allow, deny := filterRules(options, values)
		return &seccomp.Program{
			RuleSets: []seccomp.RuleSet{{Rules: deny.Copy()}, {Rules: allow.Copy(), Action: seccomp.Allow}},
			Options:  filterconfig.SeccompOptions(options),
		}
	}
	return precompiledseccomp.Precompile(options.ConfigKey(), names, build)
}

// shareFilter builds the program and lets the sentries that are started from now on inherit it.
func shareFilter() error {
	program, err := compileFilter()
	if err != nil {
		return err
	}
	text, err := json.Marshal(program)
	if err != nil {
		return err
	}
	memory, err := sealedMemory(text)
	if err != nil {
		return err
	}
	defer memory.Close()
	// Whole at once, and without close-on-exec.
	return unix.Dup3(int(memory.Fd()), filterDescriptor, 0)
}

// sealedMemory gives a file without a name that nobody can change, whoever has it.
func sealedMemory(text []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("filter", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, err
	}
	memory := os.NewFile(uintptr(fd), "filter")
	_, err = memory.Write(text)
	if err == nil {
		_, err = unix.FcntlInt(memory.Fd(), unix.F_ADD_SEALS, filterSeals)
	}
	if err != nil {
		memory.Close()
		return nil, err
	}
	return memory, nil
}

// useFilter gives the launcher's program to gVisor in a sentry that has given up the host's files.
// What else the launcher starts closes it.
func useFilter() {
	boot := slices.Contains(os.Args, "boot")
	if boot && !slices.Contains(os.Args, "--setup-root=false") {
		return // the sentry executes itself again
	}
	defer unix.Close(filterDescriptor)
	if !boot {
		return
	}
	if err := registerFilter(filterDescriptor); err != nil {
		log.Warningf("build system call filters, without those of the launcher: %v", err)
	}
}

// registerFilter makes gVisor find the program behind a descriptor. It refuses one that anybody
// could have changed, or that is not for our sentries.
func registerFilter(fd int) error {
	seals, err := unix.FcntlInt(uintptr(fd), unix.F_GET_SEALS, 0)
	if err != nil {
		return err
	}
	if seals != filterSeals {
		return fmt.Errorf("its memory is not sealed: %#x", seals)
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return err
	}
	text := make([]byte, stat.Size)
	n, err := unix.Pread(fd, text, 0) // all sentries share the position
	if err != nil {
		return err
	}
	var program precompiledseccomp.Program
	if err := json.Unmarshal(text[:n], &program); err != nil {
		return err
	}
	options, err := filterOptions()
	if err != nil {
		return err
	}
	if program.Name != options.ConfigKey() {
		return fmt.Errorf("it is for %s", program.Name)
	}
	if _, err := program.RenderInstructions(options.Vars()); err != nil { // gVisor would end the sentry
		return err
	}
	filter.GetPrecompiled("") // gVisor sets the map at its first use
	precompiled[program.Name] = program
	return nil
}
