# `dpkg -i`: the server runs and answers
dpkg -i /payload/old.deb
systemctl is-enabled stacyvm
[ "$(systemctl is-active stacyvm)" = active ] || {
	journalctl -u stacyvm -n 30 --no-pager
	fail "the server does not run"
}
ready
[ "$(stat -c '%a %U' /etc/stacyvm/api-key)" = "600 root" ] || fail "mode of the key: $(stat -c '%a %U' /etc/stacyvm/api-key)"
[ "$(stat -c '%a %U' /var/lib/stacyvm)" = "700 root" ] || fail "mode of the data: $(stat -c '%a %U' /var/lib/stacyvm)"
STACYVM_API_KEY='' curl -s -o /dev/null -w '%{http_code}' "$api/sandboxes" | grep -q 401 || fail "served without a key"
systemd-analyze verify /usr/lib/systemd/system/stacyvm*.service
stacyvm doctor >/tmp/doctor || fail "doctor: $(grep FAIL /tmp/doctor)"
cat /tmp/doctor
! grep -v '^\[PASS\]' /tmp/doctor || fail "doctor is not content: $(grep -v '^\[PASS\]' /tmp/doctor | head -1)"
[ "$(find /sys/fs/cgroup/stacyvm.slice -name 'stacyvm-*.scope' | wc -l)" = 1 ] || fail "the trial of doctor left its group"
exposure() { systemd-analyze security "$1" --no-pager | sed -n 's/.*Overall exposure level for [^:]*: \([0-9.]* [A-Z]*\).*/\1/p'; }
show "$(dpkg-query -W stacyvm | tr '\t' ' '); systemd-analyze security: $(exposure stacyvm.service) (server), $(exposure stacyvm-control.service) (control plane alone); doctor: $(grep -c PASS /tmp/doctor) checks pass"
