# `dpkg --remove`: says what stays; sandboxes are ended
id=$(box)
processes=$(members "$id")
dpkg --remove stacyvm | tee /tmp/removed
for pid in $processes; do
	[ ! -e "/proc/$pid" ] || fail "process $pid of a sandbox is left"
done
grep -q '/var/lib/stacyvm' /tmp/removed || fail "it does not say what stays"
[ -e /var/lib/stacyvm/stacyvm.db ] && [ -e /etc/stacyvm/stacyvm.yaml ] || fail "data or configuration are gone"
[ ! -e /usr/bin/stacyvm ] || fail "the program is left"
dpkg -i /payload/new.deb
ready
stacyvm list >/tmp/listed && grep -q "$id" /tmp/listed || fail "after a new install the records are not there"
show "sandboxes are ended; data and keys stay, and a new install finds them"
