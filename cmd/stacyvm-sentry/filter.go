package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	"github.com/stacyvm/stacyvm/cmd/stacyvm-sentry/process"
)

// A sentry confines itself with a program of system call filters that is the same for every
// sandbox but for a few numbers. gVisor can have it precompiled into its packages; as a Go module it
// has not, and builds it anew in every sentry, which is a tenth of what a create costs. So the
// launcher builds it once, into filterFile, and sentries find it there. One that finds none, or
// needs another, builds its own.

const (
	// filterFile is in the engine's directory.
	filterFile = "filter.json"
	// filterDescriptor is where a sentry finds it after it has given up the host's files.
	filterDescriptor = limits.FreeDescriptor
)

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

// writeFilter puts the program into the launcher's working directory.
func writeFilter() error {
	program, err := compileFilter()
	if err != nil {
		return err
	}
	text, err := json.Marshal(program)
	if err != nil {
		return err
	}
	fresh := filterFile + ".new"
	if err := os.WriteFile(fresh, text, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, filterFile)
}

// keepFilter opens the program for a sentry that is about to give up the host's files.
func keepFilter() {
	bundle := process.BundleArgument(os.Args)
	if bundle == "" || !slices.Contains(os.Args, "boot") || slices.Contains(os.Args, "--setup-root=false") {
		return
	}
	_ = limits.Keep(filepath.Join(bundle, "..", "..", filterFile), filterDescriptor) // it can do without
}

// useFilter gives the program to gVisor in a sentry that has given up the host's files.
func useFilter() {
	if !slices.Contains(os.Args, "boot") || !slices.Contains(os.Args, "--setup-root=false") {
		return
	}
	if _, err := unix.FcntlInt(filterDescriptor, unix.F_GETFD, 0); err != nil {
		return
	}
	file := os.NewFile(filterDescriptor, filterFile)
	defer file.Close()
	if err := registerFilter(file); err != nil {
		log.Warningf("use the filter of the launcher: %v", err)
	}
}

// registerFilter makes gVisor find a program.
func registerFilter(from io.Reader) error {
	var program precompiledseccomp.Program
	if err := json.NewDecoder(from).Decode(&program); err != nil {
		return err
	}
	filter.GetPrecompiled("") // gVisor sets the map at its first use
	precompiled[program.Name] = program
	return nil
}
