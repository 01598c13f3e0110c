set -euo pipefail
STACYVM_API_KEY=$(cat /etc/stacyvm/api-key 2>/dev/null || true)
export STACYVM_API_KEY
api=http://127.0.0.1:7423/api/v1

# A step that fails leaves in the log what the server said last, and no sandbox to the next one.
failed() {
	journalctl -u 'stacyvm*' -n 25 --no-pager -o cat
	stacyvm list | grep -o "^sb-[0-9a-f]*" | xargs -r stacyvm kill || true
}
trap '[ $? = 0 ] || failed' EXIT

# show TEXT: something for the report. fail TEXT: the step fails.
show() { echo "SHOWN: $*"; }
fail() {
	echo "FAIL: $*"
	exit 1
}

# until_ok SECONDS COMMAND...: repeats the command until it succeeds.
until_ok() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ $SECONDS -lt $end ] || fail "not within the time: $*"
		sleep 0.5
	done
}
call() { curl -fsS -m 60 -H "X-API-Key: $STACYVM_API_KEY" -H 'content-type: application/json' "$@"; }
ready() { until_ok 300 curl -fsS -m 5 "$api/ready"; }
box() { stacyvm spawn --quiet --ttl 6h "$@"; }
sh_in() { # sh_in SANDBOX SCRIPT
	stacyvm exec "$1" --shell -- "$2"
}

# The sandbox's control group, its first processes (gofer and sentry; the sentry makes and ends others for the guest's), the launcher's
# scope and process.
group() { find /sys/fs/cgroup/stacyvm.slice -type d -name "stacyvm-*-$1"; }
members() { sort -n "$(group "$1")/cgroup.procs" | head -2 | tr '\n' ' '; }
scope() { systemctl list-units --plain --no-legend 'stacyvm-*.scope' | awk '{ print $1 }'; }
launcher() { tr '\n' ' ' <"/sys/fs/cgroup/stacyvm.slice/$(scope)/launcher/cgroup.procs" | awk '{ print $1 }'; }

# counter SANDBOX: starts a command that writes the time once a second; between SANDBOX FROM TO: how often it did then.
counter() { stacyvm exec --detach "$1" --shell -- 'while :; do date +%s >>/tmp/beats; sleep 1; done' >/dev/null; }
between() { sh_in "$1" "awk '\$1 > $2 && \$1 < $3' /tmp/beats | wc -l"; }
beats() { sh_in "$1" '[ -s /tmp/beats ]'; }
