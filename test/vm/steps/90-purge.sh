# `dpkg --purge`, with a sandbox running: nothing is left
id=$(box)
dpkg --purge stacyvm
left=$(readlink /proc/[0-9]*/exe | grep -i 'stacyvm\|runsc' || true) # not by their arguments, as this script's name it
[ -z "$left" ] || fail "processes: $left"
[ -z "$(find /sys/fs/cgroup -name '*stacyvm*')" ] || fail "groups: $(find /sys/fs/cgroup -name '*stacyvm*')"
! grep -i stacyvm /proc/self/mountinfo || fail "mounts are left"
list() { find / -xdev \( -path /payload -o -path /tmp -o -path /var/log -o -path /var/lib/dpkg -o -path /var/tmp -o -path /root/before \) -prune -o -print | sort; }
list >/tmp/after
# root's own files, and what Debian keeps of every account that ever was (/etc/passwd-), are no leftovers.
left=$(comm -13 /root/before /tmp/after | grep -v '^/root/\|^/etc/\(passwd\|group\|shadow\|gshadow\|subuid\|subgid\)-$\|^/var/lib/systemd/\|^/var/cache/ldconfig' || true)
[ -z "$left" ] || fail "files: $left"
getent passwd | sort | cmp - /root/before.passwd || fail "users: $(getent passwd stacyvm)"
getent group | sort | cmp - /root/before.group || fail "groups of users: $(getent group stacyvm)"
! dpkg -l stacyvm 2>/dev/null | grep -q '^[ir]c' || fail "dpkg still knows it"
[ -z "$(systemctl list-units --all --plain --no-legend 'stacyvm*')" ] || fail "units: $(systemctl list-units --all --plain --no-legend 'stacyvm*')"
show "no process, group, mount, file, user or unit that was not there before"
