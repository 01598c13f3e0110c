# Limit: processes
id=$(box)
max=$(cat "$(group "$id")/pids.max")
out=$(sh_in "$id" 'n=0; while [ $n -lt 300 ]; do sleep 300 & n=$((n+1)); done 2>&1 | tail -1; echo; ls -d /proc/[0-9]* | wc -l' 2>&1 | tail -3 || true)
echo "$out"
alive=$(sh_in "$id" 'echo alive' 2>&1 || true)
tasks=$(cat "$(group "$id")/pids.current" 2>/dev/null || echo none)
state=$(stacyvm list | grep "$id" || true)
stacyvm kill "$id"
[ "$alive" = alive ] || fail "after a loop of forks the sandbox answers '$alive' ($state)"
[ "$tasks" = none ] || [ "$tasks" -le "$max" ] || fail "$tasks tasks, over $max"
show "pids.max $max; 300 processes started in a loop leave $tasks tasks on the machine, the sandbox lives"
