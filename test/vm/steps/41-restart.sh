# `systemctl restart` twice, and SIGKILL of the server
id=$(box)
counter "$id"
until_ok 120 beats "$id"
before=$(members "$id") boot=$(sh_in "$id" 'cat /proc/sys/kernel/random/boot_id')
for round in 1 2; do
	systemctl restart stacyvm
	ready
	[ "$(sh_in "$id" 'cat /proc/sys/kernel/random/boot_id')" = "$boot" ] || fail "another sandbox after restart $round"
done
pid=$(systemctl show -P MainPID stacyvm)
kill -9 "$pid"
other() { [ "$(systemctl show -P MainPID stacyvm)" != "$pid" ] && [ "$(systemctl show -P MainPID stacyvm)" != 0 ]; }
until_ok 120 other
ready
[ "$(sh_in "$id" 'cat /proc/sys/kernel/random/boot_id')" = "$boot" ] || fail "another sandbox after SIGKILL"
[ "$(members "$id")" = "$before" ] || fail "its processes were $before and are $(members "$id")"
stacyvm kill "$id"
show "two restarts and a SIGKILL, after which systemd starts it again: the same sandbox, the same processes"
