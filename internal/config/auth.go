package config

import "time"

// Auth says who may call.
type Auth struct {
	// Enabled refuses a start without any key. A key turns authentication on by itself.
	Enabled         bool   `yaml:"enabled"`
	APIKey          string `yaml:"api_key" secret:"true"`
	APIKeyFile      string `yaml:"api_key_file"`
	AdminAPIKey     string `yaml:"admin_api_key" secret:"true"`
	AdminAPIKeyFile string `yaml:"admin_api_key_file"`
	// AdminFallbackEnabled lets the client key open admin routes when there is no admin key.
	AdminFallbackEnabled bool `yaml:"admin_fallback_enabled"`
	// AdminAuditRetention is how long the audit of admin routes is kept; 0: for ever.
	AdminAuditRetention time.Duration `yaml:"admin_audit_retention"`

	// WorkerToken is one token for all workers, for staging; WorkerTokens gives each its own and
	// overrides it for them.
	WorkerToken     string            `yaml:"worker_token" secret:"true"`
	WorkerTokenFile string            `yaml:"worker_token_file"`
	WorkerTokens    map[string]string `yaml:"worker_tokens" secret:"true"` // worker id to token
	// WorkerSigningKey signs and verifies short-lived worker tokens; WorkerSigningKeys only
	// verify, while keys are rotated.
	WorkerSigningKey      string   `yaml:"worker_signing_key" secret:"true"`
	WorkerSigningKeyFile  string   `yaml:"worker_signing_key_file"`
	WorkerSigningKeys     []string `yaml:"worker_signing_keys" secret:"true"`
	WorkerRevokedTokenIDs []string `yaml:"worker_revoked_token_ids"` // jti of signed tokens that are refused

	OIDCEnabled  bool   `yaml:"oidc_enabled"`
	OIDCIssuer   string `yaml:"oidc_issuer"`
	OIDCAudience string `yaml:"oidc_audience"`
	OIDCJWKSURL  string `yaml:"oidc_jwks_url"`
	// PEM; public, so that its file may be readable
	OIDCPublicKey      string   `yaml:"oidc_public_key" secret:"public"`
	OIDCPublicKeyFile  string   `yaml:"oidc_public_key_file"`
	OIDCGroupsClaim    string   `yaml:"oidc_groups_claim"`
	OIDCTenantClaim    string   `yaml:"oidc_tenant_claim"`
	OIDCAdminGroups    []string `yaml:"oidc_admin_groups"`
	OIDCOperatorGroups []string `yaml:"oidc_operator_groups"`
	OIDCViewerGroups   []string `yaml:"oidc_viewer_groups"`
}
