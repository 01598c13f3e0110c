package config

import (
	"strings"
	"testing"
)

// contract lists the keys that files written for any version may hold: none of them may go.
const contract = `
server: host port preview_domain cors_allowed_origins
worker: id control_plane_url listen_addr preview_domain heartbeat_interval shutdown_timeout
worker.rpc_tls: enabled insecure_skip_verify server_cert_file server_key_file client_ca_file ca_file client_cert_file client_key_file server_name
providers: default mock.enabled
providers.docker: enabled socket runtime default_image network_mode seccomp_profile read_only_rootfs memory cpus pids_limit user dropped_caps added_caps tmpfs
providers.docker.pool_security: per_user_uid pid_namespace hidepid workspace_permissions
providers.firecracker: enabled firecracker_path kernel_path default_rootfs agent_path data_dir
providers.e2b: enabled api_key base_url
providers.custom: enabled name base_url api_key timeout
providers.proot: enabled rootfs_path proot_binary workspace_base default_timeout max_sandboxes max_memory_mb max_disk_mb languages
defaults: ttl max_ttl image memory_mb vcpus disk_size_mb pool_size pool_template default_exec_timeout max_exec_timeout max_sandboxes max_sandboxes_per_owner spawn_overflow spawn_queue_timeout max_spawn_queue
auth: enabled api_key admin_api_key worker_token worker_token_file worker_tokens worker_signing_key worker_signing_key_file worker_signing_keys worker_revoked_token_ids admin_fallback_enabled admin_audit_retention
auth: oidc_enabled oidc_issuer oidc_audience oidc_jwks_url oidc_public_key oidc_public_key_file oidc_groups_claim oidc_tenant_claim oidc_admin_groups oidc_operator_groups oidc_viewer_groups
rate_limit: enabled requests_per_minute burst key_by bucket_ttl cleanup_interval
database: driver path dsn
logging: level format
pool: enabled max_vms max_users_per_vm image memory_mb vcpus overflow
`

func TestContractKeys(t *testing.T) {
	c := Default()
	known := map[string]bool{}
	for _, k := range keys(&c) {
		known[k.name] = true
	}
	count := 0
	for line := range strings.Lines(strings.TrimSpace(contract)) {
		section, names, _ := strings.Cut(line, ":")
		for name := range strings.FieldsSeq(names) {
			count++
			if !known[section+"."+name] {
				t.Errorf("%s.%s is gone", section, name)
			}
		}
	}
	if count != 118 {
		t.Errorf("the contract has 118 keys, this list %d", count)
	}
}
