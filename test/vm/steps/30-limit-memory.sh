# Limit: memory
id=$(box --memory 256)
limit=$(cat "$(group "$id")/memory.max")
# The kernel's limit lies 512 MiB behind the guard's, which is what the guest may use and 64 MiB for its runtime.
[ "$limit" != max ] && [ "$limit" -le $(((256 + 64 + 512) << 20)) ] || fail "memory.max is $limit"
seen=$(sh_in "$id" 'grep MemTotal /proc/meminfo')
rc=0
stacyvm exec "$id" -- python3 -c 'l = []
while True: l.append(bytearray(1 << 20))' || rc=$?
alive=$(sh_in "$id" 'echo alive' || true)
[ "$alive" = alive ] || fail "the program ended with $rc and the sandbox is gone: $(stacyvm list | grep "$id")"
[ $rc = 137 ] || fail "the program ended with $rc, not 137"
stacyvm kill "$id"
show "memory.max $limit, the guest sees $seen; a program that takes more ends with 137, the sandbox lives"
