# Limit: processes
id=$(box --memory 64)
group=$(group "$id")
max=$(cat "$group/pids.max")
[ "$max" != max ] || fail "pids.max is $max"
sh_in "$id" 'echo kept >/workspace/file'
cat >/tmp/bomb.py <<'END'
import os, signal
made, error = [], "none"
while len(made) < 2000:
    try:
        child = os.fork()
    except OSError as e:
        error = e.strerror
        break
    if child == 0:
        signal.pause()
    made.append(child)
print(len(made), error)
END
stacyvm cp /tmp/bomb.py "$id:/workspace/bomb.py"
before=$(members "$id")
got=$(call -m 300 -X POST "$api/sandboxes/$id/exec" -d '{"command":"exec python3 /workspace/bomb.py","timeout":"4m"}' |
	python3 -c 'import json, sys; a = json.load(sys.stdin); print(a["exit_code"], a.get("reason", "none"), a["stdout"])')
peak=$(cat "$group/pids.peak")
[ "$peak" -le "$max" ] || fail "$peak tasks, over $max"
case $got in # whichever of the two has no room first
"0 none "*"Resource temporarily unavailable"*) how="is refused another one" ;;
"137 oom "*) how="is ended with the reason oom" ;;
*) fail "a loop of forks ended with $got" ;;
esac
sh_in "$id" 'kill -9 -1' || true # what it left behind; builtin, as there is no room for a process of the shell's
settled() { sh_in "$id" 'set -- /proc/[0-9]*; [ $# -le 3 ]'; }
until_ok 120 settled
[ "$(sh_in "$id" 'cat /workspace/file')" = kept ] || fail "the file is gone"
[ "$(members "$id")" = "$before" ] || fail "its processes were $before and are $(members "$id")"
stacyvm kill "$id"
show "pids.max $max; a loop of forks in 64 MiB $how, at $peak tasks on the machine; the sandbox lives with its file"
