#!/usr/bin/env bash
# Prints a report, in Markdown, of which worker credentials the binary accepts and which it refuses. Exit code 1 when one was
# judged wrongly. The report holds no credential; every key and token that was made for it is kept in DIR, which must not
# exist, so that one can search the report for them.
#
#   worker-identity-report.sh BINARY DIR
set -euo pipefail
[ $# -eq 2 ] || { grep '^#  ' "$0" >&2; exit 2; }
stacyvm=$1 dir=$2 wrong=0
umask 077
mkdir "$dir"
export STACYVM_CONFIG="$dir/none.yaml"
: >"$STACYVM_CONFIG"

hmac() { openssl rand -hex 32 >"$dir/$1"; }
ed25519() { openssl genpkey -algorithm ed25519 -out "$dir/$1" && openssl pkey -in "$dir/$1" -pubout -out "$dir/$1.pub"; }

# token NAME KEY WORKER [flags]: signs one and keeps it.
token() { local name=$1 key=$2 worker=$3; shift 3; "$stacyvm" worker token issue "$worker" --signing-key-file "$dir/$key" "$@" >"$dir/$name.token"; }

id_of() { "$stacyvm" worker token inspect - <"$dir/$1.token" | sed -n 's/.*"token_id": *"\([^"]*\)".*/\1/p'; }

# row WHAT WANTED NAME KEY [flags]: one line of the table. WANTED is "accepted" or the reason of the refusal. Neither the token
# nor what the command says of it is printed.
row() {
	local what=$1 wanted=$2 name=$3 key=$4 said got=accepted
	shift 4
	said=$("$stacyvm" worker token verify - --signing-key-file "$dir/$key" --audience worker:control-plane --worker-id worker-a "$@" 2>&1 <"$dir/$name.token") || got=refused
	if [ "$wanted" = accepted ] && [ $got = accepted ]; then
		echo "| $what | accepted | as wanted |"
	elif [ $got = refused ] && [[ $said == *"$wanted"* ]]; then
		echo "| $what | refused | as wanted: $wanted |"
	else
		echo "| $what | $got | WRONG, wanted: $wanted |" && wrong=1
	fi
}

hmac key && hmac next && hmac stranger
ed25519 ed && ed25519 other

cat <<EOF
# Worker identity

Binary: \`$("$stacyvm" version)\`. Made on $(date -u +%Y-%m-%dT%H:%MZ).
Each credential was made for this report and shown to \`stacyvm worker token verify\` as worker \`worker-a\` at a control plane.

| credential | judged | verdict |
|---|---|---|
EOF
for kind in key ed; do
	name="signed with HMAC" verify=$kind
	if [ $kind = ed ]; then name="JWT signed with Ed25519" verify=ed.pub; fi
	token $kind.good $kind worker-a
	row "$name" accepted $kind.good $verify
	token $kind.scopes $kind worker-a --scope worker:heartbeat --scope worker:lease
	row "$name, two scopes" accepted $kind.scopes $verify
	token $kind.worker $kind worker-b
	row "$name, for another worker" "the token is another worker's" $kind.worker $verify
	token $kind.audience $kind worker-a --audience worker:rpc
	row "$name, for another audience" "the token is for another audience" $kind.audience $verify
	token $kind.early $kind worker-a --ttl 5m --not-before 2m
	row "$name, not valid yet" "the token is not valid yet" $kind.early $verify
	row "$name, revoked" "the token is revoked" $kind.good $verify --revoked-token-id "$(id_of $kind.good)"
	stranger=stranger
	if [ $kind = ed ]; then stranger=other.pub; fi
	row "$name, by a key that is not known" "no known key signed it" $kind.good $stranger
	if [ $kind = key ]; then
		row "$name, by the former key while keys are rotated" accepted $kind.good next --verification-key-file "$dir/key"
		row "$name, by the former key after the rotation" "no known key signed it" $kind.good next
	fi
	sed 's/.$//' "$dir/$kind.good.token" >"$dir/$kind.cut.token"
	row "$name, its last character missing" "is no signed worker token" $kind.cut $verify
done
token ttl key worker-a --ttl 1s
sleep 2 # the end of a token is what is tested
row "signed with HMAC, past its end" "the token has expired" ttl key
if token long key worker-a --ttl 16m 2>/dev/null; then
	echo "| signed with HMAC, for 16 minutes | issued | WRONG |" && wrong=1
else
	echo "| signed with HMAC, for 16 minutes | refused | as wanted: it is not issued |"
fi

echo
echo "Own and shared tokens and certificates are judged by the tests of internal/auth and internal/pki (gates worker-auth and"
echo "worker-rpc-mtls), and by the remote worker smoke (gates smoke-sqlite and smoke-mtls) with real processes."
exit $wrong
