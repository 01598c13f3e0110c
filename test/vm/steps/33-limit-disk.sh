# Limit: disk
id=$(box --disk 64)
out=$(sh_in "$id" 'dd if=/dev/zero of=/workspace/x bs=1M count=200 2>&1; stat -c %s /workspace/x' || true)
echo "$out"
echo "$out" | grep -q 'No space left' || fail "200 MiB were written into 64: $out"
size=$(echo "$out" | tail -1)
[ "$size" -le $((64 << 20)) ] || fail "the file has $size bytes"
[ "$(sh_in "$id" 'rm /workspace/x; echo alive')" = alive ] || fail "the sandbox does not go on"
stacyvm kill "$id"
show "of 200 MiB, $((size >> 20)) MiB are written, then \"No space left on device\"; the sandbox goes on"
