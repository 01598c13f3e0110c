#!/usr/bin/env bash
# Prints what sandboxes could leave on a machine: our processes, mounts, network namespaces, cgroups and temporary files.
# Two prints that differ mean a leak.
set -uo pipefail
for status in /proc/[0-9]*/status; do
	exe=$(readlink "${status%/status}/exe" 2>/dev/null) || continue
	case "$exe" in
	*stacyvm* | *runsc*) echo "process ${exe##*/} $(tr '\0' ' ' <"${status%/status}/cmdline" 2>/dev/null | cut -c1-120)" ;;
	esac
done | sort | uniq -c
grep -E 'stacyvm|runsc' /proc/self/mountinfo | awk '{print "mount", $5}' | sort
ls /run/netns 2>/dev/null | sed 's/^/netns /'
find /sys/fs/cgroup -maxdepth 4 -type d -name '*stacyvm*' 2>/dev/null | sed 's/^/cgroup /' | sort
find "${TMPDIR:-/tmp}" -maxdepth 1 -name 'stacyvm*' 2>/dev/null | sed 's/^/file /' | sort
