# Out of memory at once: 400 MiB in one allocation, /dev/shm, forks
lost=""
i=0
for how in 'python3 -c "b = bytearray(400 << 20)"' 'dd if=/dev/zero of=/dev/shm/x bs=1M count=400' \
	'python3 -c "
import os
for i in range(40):
    if os.fork() == 0:
        b = bytearray(20 << 20)
        import time; time.sleep(60)
        os._exit(0)
os.wait()"'; do
	i=$((i + 1))
	for round in 1; do
		id=$(box --memory 256)
		sh_in "$id" 'echo kept >/workspace/file'
		rc=0
		timeout 60 stacyvm exec "$id" --shell -- "$how" >/dev/null 2>&1 || rc=$?
		kept=$(sh_in "$id" 'cat /workspace/file' 2>&1 || true)
		echo "way $i round $round: status $rc, then: $kept"
		[ "$kept" = kept ] || lost="$lost way $i round $round ($(stacyvm list | grep "$id" | tr -s ' '));"
		stacyvm kill "$id" >/dev/null || true
	done
done
[ -z "$lost" ] || fail "sandboxes lost: $lost"
show "three ways: no sandbox lost, its files stay"
