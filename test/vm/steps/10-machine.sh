# A machine with systemd and cgroup v2 alone
systemctl --version | head -1
[ "$(stat -f -c %T /sys/fs/cgroup)" = cgroup2fs ] || fail "no cgroup v2"
[ "$(ps -o comm= -p 1)" = systemd ] || fail "no systemd"
grep -q memory /sys/fs/cgroup/cgroup.controllers || fail "no memory controller"
# What is on it before; the last step compares.
list() { find / -xdev \( -path /payload -o -path /tmp -o -path /var/log -o -path /var/lib/dpkg -o -path /var/tmp -o -path /root/before \) -prune -o -print | sort; }
list >/root/before
getent passwd | sort >/root/before.passwd
getent group | sort >/root/before.group
show "$(uname -r); controllers $(cat /sys/fs/cgroup/cgroup.controllers)"
