# SIGKILL of the launcher: the next one takes its sandboxes over, in the same scope
id=$(box)
unit=$(scope) pid=$(launcher)
kill -9 "$pid"
[ "$(sh_in "$id" 'echo alive')" = alive ] || fail "the sandbox does not answer"
second=$(box --memory 128)
[ "$(scope)" = "$unit" ] || fail "the scope was $unit and is $(scope)"
[ "$(launcher)" != "$pid" ] || fail "the dead launcher is still named"
[ "$(cat "$(group "$second")/memory.max")" != max ] || fail "the new sandbox has no limit"
[ "$(sh_in "$second" 'echo alive')" = alive ] || fail "the new sandbox does not answer"
stacyvm kill "$id"
[ -z "$(group "$id")" ] || fail "a group is left: $(group "$id")"
stacyvm kill "$second"
[ -z "$(group "$second")" ] || fail "a group is left: $(group "$second")"
show "both sandboxes in $unit, the new one with its limits; after kill no group is left"
