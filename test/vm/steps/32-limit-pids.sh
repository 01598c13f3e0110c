# Limit: processes
id=$(box --memory 64)
max=$(cat "$(group "$id")/pids.max")
[ "$max" != max ] || fail "pids.max is $max"
sh_in "$id" 'echo kept >/workspace/file'
cat >/tmp/bomb.py <<'END'
import os, signal, time
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
print(len(made), error, flush=True)
time.sleep(10)
for child in made:
    os.kill(child, signal.SIGKILL)
END
stacyvm cp /tmp/bomb.py "$id:/workspace/bomb.py"
before=$(members "$id")
stacyvm exec --detach "$id" --shell -- 'python3 /workspace/bomb.py >/workspace/made; echo $? >/workspace/ended' >/dev/null
printed() { sh_in "$id" '[ -s /workspace/made ]'; }
until_ok 300 printed
tasks=$(cat "$(group "$id")/pids.current")
made=$(stacyvm exec "$id" -- cat /workspace/made) # by the guest program: there is no room for a process of a shell's
over() { sh_in "$id" '[ -s /workspace/ended ]'; }
until_ok 120 over
[ "$tasks" -le "$max" ] || fail "$tasks tasks, over $max"
case $made in *"Resource temporarily unavailable") ;; *) fail "a loop of forks was not refused: $made" ;; esac
[ "$(sh_in "$id" 'cat /workspace/file; cat /workspace/ended' | tr '\n' ' ')" = "kept 0 " ] || fail "the file is gone, or the loop was ended"
[ "$(members "$id")" = "$before" ] || fail "its processes were $before and are $(members "$id")"
stacyvm kill "$id"
show "pids.max $max; a loop of forks in 64 MiB is refused after ${made%% *} processes, $tasks tasks on the machine then; the sandbox answers meanwhile and afterwards"
