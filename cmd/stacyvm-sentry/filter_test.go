package main

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"

	"gvisor.dev/gvisor/pkg/seccomp"
	"gvisor.dev/gvisor/runsc/boot/filter"
	filterconfig "gvisor.dev/gvisor/runsc/boot/filter/config"
	"gvisor.dev/gvisor/runsc/config"
)

// TestFilter: the program that the launcher builds is the one that a sentry would build for itself.
func TestFilter(t *testing.T) {
	program, err := compileFilter()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(program)
	if err == nil {
		err = registerFilter(bytes.NewReader(text))
	}
	if err != nil {
		t.Fatal(err)
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
