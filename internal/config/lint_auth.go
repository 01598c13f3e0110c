package config

import (
	"fmt"
	"slices"
	"strings"
)

// secretLength is the least length of a secret, in bytes.
const secretLength = 32

const freshSecret = "make one with `openssl rand -hex 32`"

// weakness says what is wrong with a secret, or "".
func weakness(secret string) string {
	secret = strings.TrimSpace(secret)
	lower := strings.ToLower(secret)
	isIn := func(word string) bool { return strings.Contains(lower, word) }
	switch {
	case secret == "":
		return "is empty"
	case slices.ContainsFunc([]string{"change-me", "changeme", "replace-me"}, isIn):
		return "is a placeholder"
	case len(secret) < secretLength:
		return fmt.Sprintf("is shorter than %d bytes", secretLength)
	}
	return ""
}

// secret demands a strong one.
func (l *linter) secret(name, secret string) {
	wrong := weakness(secret)
	l.demand(
		wrong == "",
		name,
		"is set and strong enough",
		"the secret "+wrong,
		freshSecret+" and keep it in the file that "+name+"_file names",
	)
}

func (l *linter) keys() {
	auth := l.c.Auth
	l.demand(
		auth.Enabled,
		"auth.enabled",
		"a server without keys does not start",
		"a server without keys would start",
		"set auth.enabled to true",
	)
	l.secret("auth.api_key", auth.APIKey)
	l.secret("auth.admin_api_key", auth.AdminAPIKey)
	if auth.APIKey != "" && auth.AdminAPIKey != "" {
		l.demand(
			auth.APIKey != auth.AdminAPIKey,
			"auth.key_separation",
			"clients and administrators have different keys",
			"the client key is the admin key",
			freshSecret+" for auth.admin_api_key",
		)
	}
	l.adminFallback()
	l.demand(
		auth.AdminAuditRetention > 0,
		"auth.admin_audit_retention",
		fmt.Sprintf(
			"the admin audit is kept for %s",
			auth.AdminAuditRetention,
		),
		"the admin audit is kept for ever",
		"set auth.admin_audit_retention, such as 2160h",
	)
}

func (l *linter) adminFallback() {
	l.demand(
		!l.c.Auth.AdminFallbackEnabled,
		"auth.admin_fallback_enabled",
		"the client key opens no admin route",
		"without an admin key the client key opens admin routes",
		"set auth.admin_fallback_enabled to false",
	)
}

func (l *linter) oidc() {
	auth := l.c.Auth
	if !auth.OIDCEnabled {
		l.pass("auth.oidc_enabled", "OIDC is off")
		return
	}
	l.pass("auth.oidc_enabled", "OIDC is on")
	l.demand(
		auth.OIDCIssuer != "",
		"auth.oidc_issuer",
		"the issuer is named",
		"no issuer is named",
		"set auth.oidc_issuer",
	)
	switch {
	case auth.OIDCJWKSURL != "":
		l.pass("auth.oidc_jwks_url", "keys come from the issuer")
	case auth.OIDCPublicKey == "":
		l.hard(
			"auth.oidc_jwks_url",
			"there is no key to verify tokens with",
			"set auth.oidc_jwks_url, or auth.oidc_public_key_file",
		)
	}
	if auth.OIDCPublicKey != "" {
		l.pass("auth.oidc_public_key", "a key to verify tokens with is set")
		l.advise(
			auth.OIDCPublicKeyFile != "",
			"auth.oidc_public_key_file",
			"the key is in a file of its own",
			"the key stands in the configuration",
			"set auth.oidc_public_key_file instead of auth.oidc_public_key",
		)
	}
	l.advise(auth.OIDCAudience != "", "auth.oidc_audience",
		"the audience is named", "tokens for any audience are accepted", "set auth.oidc_audience")
	groups := len(auth.OIDCAdminGroups) + len(auth.OIDCOperatorGroups) + len(auth.OIDCViewerGroups)
	l.advise(
		groups > 0,
		"auth.oidc_groups",
		fmt.Sprintf(
			"%d group(s) have a role",
			groups,
		),
		"no group has a role: everybody is an API client",
		"set auth.oidc_admin_groups, auth.oidc_operator_groups or auth.oidc_viewer_groups",
	)
}
