# The README's tour
out=$(stacyvm run -- python3 -c 'import platform; print(platform.release())')
[ "$out" = 4.19.0-gvisor ] || fail "run printed $out"
stacyvm spawn --ttl 1h | tee /tmp/spawned
id=$(grep -o 'sb-[0-9a-f]*' /tmp/spawned)
[ "$(stacyvm exec "$id" -- python3 -c 'print(6*7)')" = 42 ] || fail exec
echo 'print("from a file")' >/tmp/hello.py
stacyvm cp /tmp/hello.py "$id:/workspace/hello.py"
[ "$(stacyvm exec "$id" -- python3 /workspace/hello.py)" = "from a file" ] || fail cp
terminal=$(script -qec "stacyvm exec -it $id -- bash -c 'tty; echo seen'" /dev/null)
case $terminal in */dev/pts/*seen*) ;; *) fail "no terminal: $terminal" ;; esac
stacyvm exec --detach "$id" --shell -- 'for i in $(seq 5); do echo $i; sleep 1; done' | tee /tmp/detached
process=$(stacyvm ps "$id" -o json 2>/dev/null | grep -o '"id": *"[^"]*"' | tail -1 | cut -d'"' -f4)
[ "$(stacyvm attach "$id" "$process" | tr '\n' ' ')" = "1 2 3 4 5 " ] || fail attach
stacyvm kill "$id"
second=$(call -X POST "$api/sandboxes" -d '{"ttl":"10m"}' | grep -o 'sb-[0-9a-f]*' | head -1)
answer=$(call -X POST "$api/sandboxes/$second/exec" -d '{"command":"python3 -V"}')
echo "$answer"
echo "$answer" | grep -q 'Python 3' || fail "HTTP: $answer"
stacyvm kill "$second"
stacyvm list
show "run, spawn, exec, cp, a terminal, detach, ps, attach, kill; create and exec over HTTP"
