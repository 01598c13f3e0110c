# Out of memory in six ways, twice: the command says oom, sandbox and files live
id=$(box --memory 256)
neighbour=$(box --memory 128)
sh_in "$id" 'echo kept >/workspace/file'
counter "$neighbour"
until_ok 120 beats "$neighbour"
before=$(members "$id") group=$(group "$id") from=$(date +%s)
cat >/tmp/touch.py <<'END'
import mmap
m = mmap.mmap(-1, 600 << 20)
for i in range(0, len(m), 4096): m[i] = 1
END
cat >/tmp/unnamed.py <<'END'
import os
fd = os.memfd_create("x")
while True: os.write(fd, bytes(1 << 20))
END
cat >/tmp/forks.py <<'END'
import os, time
for i in range(24):
    if os.fork() == 0:
        kept = bytearray(24 << 20)
        time.sleep(30)
        os._exit(0)
for i in range(24): os.wait()
END
stacyvm cp /tmp/touch.py /tmp/unnamed.py /tmp/forks.py "$id:/workspace/"

# answer COMMAND: the exit code and the reason that the API gives.
answer() {
	call -m 300 -X POST "$api/sandboxes/$id/exec" -d "{\"command\":\"$1\",\"timeout\":\"4m\"}" |
		python3 -c 'import json, sys; a = json.load(sys.stdin); print(a["exit_code"], a.get("reason", "none"))'
}
rounds=0 ended=0
for round in 1 2; do
	while read -r -u 3 want command; do
		got=$(answer "$command")
		echo "round $round: $command: $got"
		case $got in
		$want) ;;
		*) fail "round $round, $command: exit code and reason are $got, not $want" ;;
		esac
		case $got in *oom) ended=$((ended + 1)) ;; esac
		[ "$(members "$id")" = "$before" ] || fail "round $round, $command: the sandbox's processes were $before and are $(members "$id")"
		[ "$(sh_in "$id" 'cat /workspace/file')" = kept ] || fail "round $round, $command: the file is gone"
		rounds=$((rounds + 1))
	done 3<<'END'
137?oom exec python3 -c 'bytearray(400 << 20)'
137?oom exec python3 /workspace/touch.py
137?oom exec python3 /workspace/unnamed.py
1?none dd if=/dev/zero of=/dev/shm/x bs=1M count=400; code=$?; rm /dev/shm/x; exit $code
*?oom exec python3 /workspace/forks.py
0?none dd if=/dev/zero of=/tmp/x bs=1M count=400; rm /tmp/x
END
done
to=$(date +%s)
kills=$(awk '/^oom_kill / { print $2 }' "$group/memory.events")
[ "$kills" = 0 ] || fail "the kernel ended $kills processes"
logged=$(journalctl -u stacyvm --since "@$from" -o cat | grep -c "ran out of memory.*$id" || true)
[ "$logged" = $ended ] || fail "$ended commands ended for lack of memory, $logged are in the log"
n=$(between "$neighbour" "$from" "$to")
stacyvm kill "$id" "$neighbour"
show "$rounds rounds, $ended ended with the reason oom in answer and log; the same sandbox lives with its files, the kernel killed nothing; a neighbour's loop wrote $n times in $((to - from)) s"
