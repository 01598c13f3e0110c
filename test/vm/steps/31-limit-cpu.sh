# Limit: processors
id=$(box --vcpus 1)
max=$(cat "$(group "$id")/cpu.max")
[ "$max" = "100000 100000" ] || fail "cpu.max is $max"
stacyvm exec --detach "$id" --shell -- 'for i in 1 2 3; do (while :; do :; done) & done; wait' >/dev/null
usage() { awk '/^usage_usec/ { print $2 }' "$(group "$id")/cpu.stat"; }
sleep 5
a=$(usage) t=$(date +%s%N)
sleep 20
b=$(usage) u=$(date +%s%N)
percent=$(((b - a) * 100000 / (u - t)))
stacyvm kill "$id"
[ $percent -le 110 ] || fail "three busy loops took $percent % of a processor"
[ $percent -ge 50 ] || fail "three busy loops took $percent % of a processor: nothing was limited"
show "cpu.max $max; three busy loops take $percent % of one processor of two"
