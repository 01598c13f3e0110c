# Gates of configurations and credentials: they use the built binary. Sourced by ci-cluster-conformance.sh.

# filled writes an example's configuration with secrets of this run, its paths below the gate's directory, and a sed script
# applied at last.
filled() { # example [sed-script]
	local etc="$work/gate/etc" key
	mkdir -p "$etc"
	for key in api admin; do openssl rand -hex 32 >"$etc/$key.key"; done
	openssl genpkey -algorithm ed25519 -out "$etc/worker.key"
	chmod 600 "$etc"/*.key
	while IFS= read -r line; do
		while [[ $line == *change-me* && $line != '#'* ]]; do line=${line/change-me/$(openssl rand -hex 32)}; done
		printf '%s\n' "$line"
	done <"docs/examples/$1" | sed -e "s#/etc/stacyvm/#$etc/#" -e "${2:-}" >"$work/gate/config.yaml"
}

# lints runs the linter as production does: nothing may FAIL, and each check that is named must WARN with these words.
lints() { # what [check: words]...
	local what=$1 found="$work/gate/lint" want
	shift
	"$STACYVM_BIN" config lint --production --file "$work/gate/config.yaml" >"$found" 2>&1 ||
		{ cat "$found"; why "$what: $(grep -m 1 -E '^\[FAIL\]|^stacyvm:' "$found")"; return 1; }
	for want in "$@"; do
		grep -qF "[WARN] $want" "$found" || { cat "$found"; why "$what: no warning $want"; return 1; }
	done
}

# 4. The example configurations are fit for production, and what is doubtful about worker credentials has its warning.
gate_config_lint() {
	local key oidc
	filled cluster-tokens.yaml && lints cluster-tokens.yaml || return
	filled cluster-signed.yaml && lints cluster-signed.yaml || return
	filled cluster-postgres.yaml && lints cluster-postgres.yaml || return
	key=$(openssl rand -hex 32)
	filled cluster-signed.yaml "s/^auth:/&\n  worker_token: $key/" &&
		lints "a shared token beside a signing key" "auth.worker_token: shared worker token still configured with signed worker tokens" || return
	filled cluster-signed.yaml "s/worker_signing_key_file:.*/worker_signing_key: $key/; s/worker_signing_keys:.*/worker_signing_keys: [$key]/" &&
		lints "the active key in the rotation list" "auth.worker_signing_keys: " || return
	oidc='  oidc_enabled: true\n  oidc_issuer: https://id.example.org\n  oidc_audience: stacyvm\n  oidc_jwks_url: https://id.example.org/keys\n  oidc_admin_groups: [ops]'
	filled cluster-tokens.yaml "s#^auth:#&\n$oidc#" && lints "OIDC" "config: auth.oidc_enabled is set" || return
	# And the linter can refuse: the same file with one secret too short.
	echo short >"$work/gate/etc/api.key"
	if "$STACYVM_BIN" config lint --production --file "$work/gate/config.yaml" >"$work/gate/lint"; then
		why "a key of five characters passed"
		return 1
	fi
	grep -qF '[FAIL] auth.api_key: ' "$work/gate/lint" || { why "a key of five characters has no FAIL"; return 1; }
}

# 5. A report of which worker credentials are accepted, for an audit. It may hold none of them.
gate_worker_identity_report() {
	local report="${STACYVM_CONFORMANCE_REPORT:-$work/gate/report.md}" secrets="$work/gate/secrets"
	scripts/worker-identity-report.sh "$STACYVM_BIN" "$secrets" >"$report" || { why "$(grep -m 1 WRONG "$report" || echo 'it was not written')"; return 1; }
	head -n 1 "$report" | grep -q '^# ' || { why "it is not Markdown"; return 1; }
	grep -q '^| .* | accepted |' "$report" && grep -q '^| .* | refused |' "$report" || { why "it lacks accepted or refused credentials"; return 1; }
	[ "$(cat "$secrets"/* | wc -l)" -ge 8 ] || { why "the secrets that it is searched for are missing"; return 1; }
	if cat "$secrets"/* | grep -vE '^-----|^$' | grep -qFf - "$report" || grep -qE 'stacyvm-worker-v1\.[A-Za-z0-9_-]+\.|eyJ[A-Za-z0-9_-]{20}' "$report"; then
		why "it holds a credential"
		return 1
	fi
}
