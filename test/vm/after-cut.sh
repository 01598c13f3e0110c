# $made and $gone: what was answered before all cuts until now.
ready
checked=$(sqlite3 /var/lib/stacyvm/stacyvm.db 'PRAGMA integrity_check')
[ "$checked" = ok ] || fail "integrity_check: $checked"
broken=$(sqlite3 /var/lib/stacyvm/stacyvm.db 'PRAGMA foreign_key_check')
[ -z "$broken" ] || fail "foreign_key_check: $broken"
sqlite3 /var/lib/stacyvm/stacyvm.db 'SELECT id FROM sandboxes' | sort >/tmp/rows
lost=$(for id in $made; do echo "$id"; done | sort -u | comm -23 - /tmp/rows)
[ -z "$lost" ] || fail "answered creates that are lost: $lost"
sqlite3 /var/lib/stacyvm/stacyvm.db "SELECT id FROM sandboxes WHERE state <> 'destroyed'" | sort >/tmp/rows
alive=$(for id in $gone; do echo "$id"; done | sort -u | comm -12 - /tmp/rows)
[ -z "$alive" ] || fail "answered deletes that came back: $alive"
id=$(box)
[ "$(sh_in "$id" 'echo works')" = works ] || fail "a new sandbox does not work"
stacyvm kill "$id" >/dev/null
show "integrity ok; $(echo "$made" | wc -w) creates and $(echo "$gone" | wc -w) deletes answered until now, none lost; a new sandbox works"
