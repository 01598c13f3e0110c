package config

import (
	"fmt"
	"slices"
	"strings"
)

func (l *linter) docker() {
	const name = "providers.default"
	d := l.c.Providers.Docker
	switch {
	case l.c.Providers.Default != "docker":
		l.warn(
			name,
			"the default engine is "+l.c.Providers.Default+", which the docker checks do not cover",
			"nothing to do, unless you mean docker",
		)
		return
	case !d.Enabled:
		l.warn(name, "the default engine is docker, which is off", "set providers.docker.enabled to true")
		return
	}
	l.pass(name, "the default engine is docker")
	const section = "providers.docker."
	l.demand(
		d.Runtime != "",
		"docker.runtime",
		d.Runtime,
		"no runtime is named",
		"set "+section+"runtime, such as runsc",
	)
	l.demand(
		d.NetworkMode != "",
		"docker.network_mode",
		d.NetworkMode,
		"no network mode is named",
		"set "+section+"network_mode, such as none",
	)
	l.demand(d.SeccompProfile != "" && d.SeccompProfile != "unconfined", "docker.seccomp_profile",
		"system calls are filtered", "system calls are not filtered", "set "+section+"seccomp_profile to default")
	l.demand(
		len(d.AddedCaps) == 0,
		"docker.added_caps",
		"no capability is added",
		fmt.Sprintf("%d capability(s) are added", len(d.AddedCaps)),
		"empty "+section+"added_caps",
	)
	all := slices.ContainsFunc(d.DroppedCaps, func(name string) bool { return strings.EqualFold(name, "ALL") })
	l.demand(
		all,
		"docker.dropped_caps",
		"every capability is dropped",
		"not every capability is dropped",
		"set "+section+"dropped_caps to [ALL]",
	)
	l.demand(d.Memory != "" && d.CPUs != "" && d.PidsLimit > 0, "docker.resource_limits",
		fmt.Sprintf("memory %s, CPUs %s, %d processes", d.Memory, d.CPUs, d.PidsLimit),
		"memory, CPUs or processes have no limit", "set "+section+"memory, cpus and pids_limit")
	l.demand(
		d.User != "",
		"docker.user",
		"commands run as "+d.User,
		"commands run as the image's user, which may be root",
		"set "+section+"user, such as 1000:1000",
	)
}
