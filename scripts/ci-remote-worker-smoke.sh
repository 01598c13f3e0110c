#!/usr/bin/env bash
# One control plane and one worker as real processes: a sandbox is made on the worker through the control plane, runs a
# command, keeps a file and is destroyed; then what must not work does not. Prints each step; exit code 1 at the first that fails.
#
#   ci-remote-worker-smoke.sh [--mtls] [--provider mock|gvisor] [--database sqlite|postgres]
#
# STACYVM_BIN names the binary (bin/stacyvm). STACYVM_REMOTE_SMOKE_DATABASE_DRIVER and _DATABASE_DSN choose the database when no
# option does, STACYVM_REMOTE_SMOKE_CONTROL_PORT and _WORKER_PORT the ports, which are free ones otherwise.
set -euo pipefail
cd "$(dirname "$0")/.."

driver=${STACYVM_REMOTE_SMOKE_DATABASE_DRIVER:-sqlite} dsn=${STACYVM_REMOTE_SMOKE_DATABASE_DSN:-} provider=mock mtls=
while [ $# -gt 0 ]; do
	case "$1" in
	--mtls) mtls=1 && shift ;;
	--provider) provider=$2 && shift 2 ;;
	--database) driver=$2 && shift 2 ;;
	*) grep '^#  ' "$0" >&2 && exit 2 ;;
	esac
done
stacyvm=$(realpath "${STACYVM_BIN:-bin/stacyvm}")
dir=$(mktemp -d "${TMPDIR:-/tmp}/stacyvm-smoke-XXXXXX")
control= worker=

finish() {
	local code=$? pid
	trap - EXIT
	if [ -n "$worker" ] && [ -n "${id:-}" ]; then call DELETE "/sandboxes/$id" || true; fi # after a failure
	for pid in $worker $control; do kill "$pid" 2>/dev/null && wait "$pid" || true; done
	if [ $code -ne 0 ]; then
		for name in control worker; do echo "--- the log of $name:" && tail -n 30 "$dir/$name.log" || true; done >&2
	fi
	rm -rf "$dir"
	exit $code
}
trap finish EXIT
trap 'exit 130' INT TERM

step() { echo "ok: $*"; }
fail() { echo "smoke: $*" >&2; exit 1; }

free_port() {
	local port
	while port=$((20000 + RANDOM % 12000)); (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do :; done
	echo $port
}

# until_true waits for what no event tells.
until_true() { # seconds command...
	local end=$((SECONDS + $1))
	shift
	until "$@"; do
		[ $SECONDS -lt $end ] || return 1
		sleep 0.1
	done
}

control_port=${STACYVM_REMOTE_SMOKE_CONTROL_PORT:-$(free_port)}
worker_port=${STACYVM_REMOTE_SMOKE_WORKER_PORT:-$(free_port)}
api_key=$(openssl rand -hex 32) admin_key=$(openssl rand -hex 32) worker_token=$(openssl rand -hex 32)
scheme=http trust=()
if [ -n "$mtls" ]; then
	scheme=https trust=(--cacert "$dir/control/pki/ca-bundle.pem")
fi
url="$scheme://127.0.0.1:$control_port/api/v1"

# call makes a request with the keys of an administrator, who may do everything; it sets status and answer.
keys=(-H "X-API-Key: $api_key" -H "X-Admin-API-Key: $admin_key")
call() { # method path [curl options]
	local method=$1 path=$2
	shift 2
	status=$(curl -sS "${trust[@]}" -o "$dir/answer" -w '%{http_code}' -X "$method" "${keys[@]}" "$@" "$url$path") || { status=000 answer=; return 1; }
	answer=$(cat "$dir/answer")
}
json() { call "$1" "$2" -H 'Content-Type: application/json' -d "$3" "${@:4}"; }
wants() { [ "$status" = "$1" ] || fail "$2: status $status, want $1: $answer"; }
field() { jq -er "$1" <<<"$answer" || fail "no $1 in $answer"; }

certify() {
	"$stacyvm" pki init "$dir/pki" >/dev/null
	"$stacyvm" pki issue "$dir/pki" --server 127.0.0.1 >/dev/null
	"$stacyvm" pki issue "$dir/pki" --worker worker-a >/dev/null
	mkdir "$dir/control/pki" "$dir/worker/pki"
	cp "$dir/pki/ca-bundle.pem" "$dir"/pki/server-*.pem "$dir/control/pki"
	cp "$dir/pki/ca-bundle.pem" "$dir/pki/worker-worker-a.pem" "$dir/worker/pki"
}

# configure writes the files of both, which share what both must know.
configure() {
	local engines="providers: {default: $provider, mock: {enabled: $([ "$provider" = mock ] && echo true || echo false)}}" dsn_line=
	if [ "$driver" = postgres ]; then dsn_line="dsn: \"$dsn\""; else dsn_line="path: $dir/control/data/stacyvm.db"; fi
	cat >"$dir/control/stacyvm.yaml" <<-YAML
		data_dir: $dir/control/data
		server: {host: 127.0.0.1, port: $control_port, worker: false}
		auth: {enabled: true, api_key: $api_key, admin_api_key: $admin_key, admin_fallback_enabled: false$([ -n "$mtls" ] || echo ", worker_tokens: {worker-a: $worker_token}")}
		database: {driver: $driver, $dsn_line}
		$([ -z "$mtls" ] || echo "pki: {dir: $dir/control/pki}")
		$engines
	YAML
	cat >"$dir/worker/stacyvm.yaml" <<-YAML
		data_dir: $dir/worker/data
		worker: {id: worker-a, control_plane_url: "$scheme://127.0.0.1:$control_port", listen_addr: "127.0.0.1:$worker_port", heartbeat_interval: 1s}
		$([ -n "$mtls" ] && echo "pki: {dir: $dir/worker/pki}" || echo "auth: {worker_token: $worker_token}")
		$engines
	YAML
	chmod 600 "$dir"/*/stacyvm.yaml
}

mkdir "$dir/control" "$dir/worker"
if [ -n "$mtls" ]; then certify; fi
configure

(cd "$dir/control" && exec "$stacyvm" serve --config "$dir/control/stacyvm.yaml") >"$dir/control.log" 2>&1 &
control=$!
ready() { kill -0 $control 2>/dev/null || fail "the control plane ended"; call GET /ready 2>/dev/null && [ "$status" = 200 ]; }
until_true 30 ready || fail "the control plane is not ready"
call GET /live && wants 200 live
call GET /health && wants 200 health && [ "$(field .status)" = ok ] || fail "health: $answer"
step "the control plane is ready ($driver${mtls:+, TLS})"

(cd "$dir/worker" && exec "$stacyvm" worker --config "$dir/worker/stacyvm.yaml") >"$dir/worker.log" 2>&1 &
worker=$!
known() { kill -0 $worker 2>/dev/null || fail "the worker ended"; call GET /workers/worker-a && [ "$status" = 200 ] && [ "$(jq -r .status <<<"$answer")" = online ]; }
until_true 30 known || fail "worker-a is not online: $answer"
call GET /workers && wants 200 workers
[ "$(field '[.[].id] | join(",")')" = worker-a ] || fail "the workers are $answer"
address=$(field '.[0].capacity.rpc_url')
[ "$address" = "$scheme://127.0.0.1:$worker_port" ] || fail "its address is $address"
step "worker-a is online at $address"

made() { json POST /sandboxes "{\"provider\":\"$provider\",\"ttl\":\"10m\",\"memory_mb\":256}" && [ "$status" = 201 ]; }
until_true 15 made || fail "no sandbox: status $status: $answer"
id=$(field .id)
[ "$(field .worker_id)" = worker-a ] || fail "it is on $(field .worker_id)"
[ "$(field .provider)" = "$provider" ] || fail "its provider is $(field .provider)"
call GET "/sandboxes/$id" && wants 200 get && [ "$(field .state)" = running ] || fail "its state: $answer"
step "a $provider sandbox runs on worker-a"

json POST "/sandboxes/$id/exec" '{"command":"echo out; echo err >&2; exit 3"}' && wants 200 exec
[ "$(field '"\(.exit_code) \(.stdout)\(.stderr)"')" = "3 out
err" ] || fail "exec gave $answer"
head -c 1000000 /dev/urandom >"$dir/sent"
call PUT "/sandboxes/$id/files?path=/workspace/file" --data-binary "@$dir/sent" -H 'Content-Type: application/octet-stream'
[[ $status == 20[01] ]] || fail "upload: $status $answer"
call GET "/sandboxes/$id/files?path=/workspace/file" 2>/dev/null && wants 200 download
cmp -s "$dir/sent" "$dir/answer" || fail "the file came back changed"
step "a command and a file through the control plane"

if [ "$provider" = gvisor ]; then
	json POST "/sandboxes/$id/exec" '{"mode":"argv","command":"/usr/bin/python3","args":["-c","import hashlib,platform; print(hashlib.sha256(open(\"/workspace/file\",\"rb\").read()).hexdigest(), platform.release()); print(sum(i*i for i in range(1000000)))"]}'
	wants 200 python && [ "$(field .exit_code)" = 0 ] || fail "python: $answer"
	read -r hash release <<<"$(field .stdout | head -n 1)"
	[ "$hash" = "$(sha256sum <"$dir/sent" | cut -d' ' -f1)" ] || fail "python read another file: $answer"
	[ "$(field .stdout | sed -n 2p)" = 333332833333500000 ] || fail "python counts wrongly: $answer"
	[ "$release" != "$(uname -r)" ] || fail "the sandbox has this machine's kernel, $release: nothing isolates it"
	step "Python computed in it, on gVisor's kernel $release"
fi

# What must not work: the worker's own credential where it does not count, and none at all.
refused() { [[ $status == 40[13] ]] || fail "$1: status $status: $answer"; }
admin=("${keys[@]}") keys=(-H "X-Worker-Token: $worker_token")
call GET /admin/workers -H "X-Worker-ID: worker-a" && refused "a worker on an admin route"
call GET /sandboxes -H "X-Worker-ID: worker-a" && refused "a worker on a user's route"
json POST /worker/worker-a/heartbeat '{"status":"online"}' -H "X-Worker-ID: worker-b" && refused "a heartbeat as another worker"
keys=("${admin[@]}")
json POST /worker/worker-a/heartbeat '{"status":"online"}' && refused "a heartbeat with an administrator's keys"
if [ -n "$mtls" ] && curl -sS -k "$scheme://127.0.0.1:$worker_port/stacyvm.worker.v1.WorkerService/Providers" -X POST -H 'Content-Type: application/json' -H 'X-Worker-ID: worker-a' -d '{}' -o "$dir/answer" -w '%{http_code}' 2>/dev/null | grep -q '^2'; then
	fail "the worker answers who shows no certificate"
fi
step "wrong credentials are refused"

call DELETE "/sandboxes/$id" && [[ $status == 20[04] ]] || fail "destroy: status $status: $answer"
gone=$id id=
call GET /sandboxes && wants 200 list && [ "$(field length)" = 0 ] || fail "sandboxes are left: $answer"
if find "$dir/worker/data" -path "*engines*/$gone" | grep -q .; then fail "something of the sandbox is left on the worker"; fi
for name in worker control; do
	pid=${!name}
	kill "$pid" && wait "$pid" || fail "the $name process ended with $?"
	printf -v "$name" ''
done
if grep -qF -e "$api_key" -e "$admin_key" -e "$worker_token" "$dir/control.log" "$dir/worker.log"; then fail "a secret is in a log"; fi
step "destroyed, and both processes ended well"
