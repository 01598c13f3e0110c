# Upgrade: a newer package over it, with a sandbox running
id=$(box)
counter "$id"
until_ok 120 beats "$id"
before=$(members "$id") old=$(stacyvm version | head -1) pid=$(launcher)
program() { readlink "/proc/$(launcher)/exe"; }
was=$(program)
echo '# changed by the administrator' >>/etc/stacyvm/stacyvm.yaml
key=$(cat /etc/stacyvm/api-key)
from=$(date +%s)
dpkg -i /payload/new.deb
to=$(date +%s)
ready
new=$(stacyvm version | head -1)
[ "$new" != "$old" ] || fail "the version is still $old"
[ "$(cat /etc/stacyvm/api-key)" = "$key" ] || fail "another key"
grep -q 'changed by the administrator' /etc/stacyvm/stacyvm.yaml || fail "the configuration was replaced"
[ "$(members "$id")" = "$before" ] || fail "its processes were $before and are $(members "$id")"
n=$(between "$id" "$from" "$to")
[ "$n" -ge 3 ] || fail "its command wrote only $n times during the upgrade of $((to - from)) s"
[ "$(launcher)" = "$pid" ] || fail "the launcher with a sandbox was replaced"
stacyvm kill "$id"
systemctl restart stacyvm
ready
second=$(box)
[ "$(program)" != "$was" ] || fail "without sandboxes the launcher is still the old program"
[ "$(sh_in "$second" 'echo alive')" = alive ] || fail "a sandbox of the new launcher does not answer"
stacyvm kill "$second"
show "$old → $new: the sandbox's processes stay, its command wrote $n times in the $((to - from)) s of the upgrade; keys and configuration are kept; the new launcher serves once the old one has no sandbox"
