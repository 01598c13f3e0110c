# Control plane alone, as the user `stacyvm`, and a worker: the other two units
cat >/etc/stacyvm/environment <<END
STACYVM_AUTH_WORKER_TOKEN=$(od -An -vtx1 -N32 /dev/urandom | tr -d ' \n')
STACYVM_WORKER_ID=vm-worker
STACYVM_WORKER_LISTEN_ADDR=127.0.0.1:7424
STACYVM_WORKER_CONTROL_PLANE_URL=http://127.0.0.1:7423
END
chmod 600 /etc/stacyvm/environment
single() {
	rm -f /etc/stacyvm/environment
	systemctl stop stacyvm-worker stacyvm-control
	systemctl start stacyvm
}
trap '[ $? = 0 ] || failed; single' EXIT
systemctl stop stacyvm
timeout 240 systemctl start stacyvm-control || fail "the control plane does not start"
pid=$(systemctl show -P MainPID stacyvm-control)
[ "$(stat -c %U "/proc/$pid")" = stacyvm ] || fail "the control plane runs as $(stat -c %U "/proc/$pid")"
grep -q '^CapEff:[[:space:]]*0*$' "/proc/$pid/status" || fail "it has capabilities: $(grep CapEff "/proc/$pid/status")"
systemctl start stacyvm-worker
made() { box >/tmp/made; }
until_ok 300 made
id=$(cat /tmp/made)
boot=$(sh_in "$id" 'cat /proc/sys/kernel/random/boot_id')
before=$(members "$id")
systemctl restart stacyvm-worker stacyvm-control
answers() { [ "$(sh_in "$id" 'cat /proc/sys/kernel/random/boot_id')" = "$boot" ]; }
until_ok 300 answers
[ "$(members "$id")" = "$before" ] || fail "its processes were $before and are $(members "$id")"
stacyvm kill "$id"
show "control plane without root and without capabilities, worker beside it; after a restart of both the same sandbox answers"
