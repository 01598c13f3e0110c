# An orderly shutdown of the services: nothing hangs
ready
listed=$(stacyvm list)
left=$(grep -o "^sb-[0-9a-f]*" <<<"$listed" || true) # none is as good
[ -z "$left" ] || stacyvm kill $left >/dev/null || fail "what the power cuts ended cannot be removed"
rm -f /etc/stacyvm/environment
systemctl restart stacyvm
ready
id=$(box)
counter "$id"
start=$SECONDS
systemctl stop stacyvm stacyvm.slice
took=$((SECONDS - start))
[ -z "$(scope)" ] || fail "the scope $(scope) is left"
[ "$(find /sys/fs/cgroup -name 'stacyvm-*' | wc -l)" = 0 ] || fail "groups are left"
[ $took -le 40 ] || fail "it took $took s"
systemctl start stacyvm
ready
stacyvm list | grep "$id" || fail "the record is gone"
state=$(stacyvm list | grep "$id" | tr -s ' ')
[ "$(sh_in "$(box)" 'echo works')" = works ] || fail "a new sandbox does not work"
stacyvm kill "$id"
show "service and slice stop within $took s, no group is left; the ended sandbox then reads: $state"
