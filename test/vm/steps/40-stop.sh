# `systemctl stop`: sandboxes and their commands go on
id=$(box)
counter "$id"
until_ok 120 beats "$id"
before=$(members "$id") pid=$(launcher)
[ -n "$before" ] || fail "no processes in the sandbox's group"
systemctl stop stacyvm
[ "$(systemctl is-active stacyvm)" = inactive ] || fail "it is still $(systemctl is-active stacyvm)"
[ ! -s /sys/fs/cgroup/system.slice/stacyvm.service/cgroup.procs ] 2>/dev/null || fail "something is left in the service's group"
from=$(date +%s)
sleep 20
to=$(date +%s)
[ "$(members "$id")" = "$before" ] || fail "its processes were $before and are $(members "$id")"
[ "$(launcher)" = "$pid" ] || fail "the launcher is another one"
systemctl start stacyvm
ready
n=$(between "$id" "$from" "$to")
[ "$n" -ge 5 ] || fail "its command wrote only $n times while the service was stopped"
systemctl status stacyvm --no-pager | head -12
systemctl status stacyvm.slice --no-pager | head -20
journalctl -u stacyvm -b --no-pager | grep -i 'left-over\|remains running' && fail "systemd complains of leftovers"
stacyvm kill "$id"
show "while the service was stopped, the sandbox's processes stayed the same and its command wrote $n times in $((to - from)) s"
