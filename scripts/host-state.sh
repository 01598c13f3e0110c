#!/usr/bin/env bash
# Prints what sandboxes could leave on a machine: our processes, mounts, network namespaces, cgroups and temporary files.
# Two prints that differ mean a leak.
set -uo pipefail
tmp=${TMPDIR:-/tmp}
tmp=${tmp%/}
for process in /proc/[0-9]*; do
	program=$(readlink "$process/exe" 2>/dev/null) || continue
	place=$(readlink "$process/cwd" 2>/dev/null) || continue # a command of the mock engine has only this of us
	case "$program $place" in
	*stacyvm*" "* | *runsc*" "* | *" $tmp/Test"* | *" $tmp/stacyvm"*)
		echo "process ${program##*/} $(tr '\0' ' ' 2>/dev/null <"$process/cmdline" | cut -c1-120)"
		;;
	esac
done | sort | uniq -c
# Of whatever program: the tests mount small file systems in temporary directories.
awk -v tmp="$tmp/" '/stacyvm|runsc/ || index($5, tmp) == 1 { print "mount", $5 }' /proc/self/mountinfo | sort
ls /run/netns 2>/dev/null | sed 's/^/netns /'
# stacyvm-HASH-ID, below the group that a launcher was started in, or its scope.
find /sys/fs/cgroup -type d -name 'stacyvm-*' 2>/dev/null | sed 's/^/cgroup /' | sort
find "$tmp" -maxdepth 1 -name 'stacyvm*' 2>/dev/null | sed 's/^/file /' | sort
