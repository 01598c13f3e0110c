package api_test

import "strings"

// workerMisuse has wrong requests of the routes of workers and of their administrators. They come
// from the worker `here`, which is registered.
var workerMisuse = map[string][]wrong{
	"worker":       {{"absent", "/workers/nobody", "", 404, "NOT_FOUND", ""}, {"unknown query", "/workers/here?x=1", "", 400, "BAD_REQUEST", "x"}},
	"admin-worker": {{"absent", "/admin/workers/nobody", "", 404, "NOT_FOUND", ""}},
	"heartbeat": {
		{"not JSON", "/worker/here/heartbeat", `{`, 400, "BAD_REQUEST", "body"},
		{"unknown status", "/worker/here/heartbeat", `{"status":"busy"}`, 400, "BAD_REQUEST", "status"},
		{"registration of nobody", "/worker/here/heartbeat", `{"register":true}`, 400, "BAD_REQUEST", "session"},
		{"a long session", "/worker/here/heartbeat", `{"session":"` + strings.Repeat("x", 129) + `"}`, 400, "BAD_REQUEST", "session"},
		{"another process", "/worker/here/heartbeat", `{"session":"unknown"}`, 409, "CONFLICT", ""},
		{"negative capacity", "/worker/here/heartbeat", `{"capacity":{"max_sandboxes":-1}}`, 400, "BAD_REQUEST", "capacity.max_sandboxes"},
		{"labels of numbers", "/worker/here/heartbeat", `{"capacity":{"labels":{"a":1}}}`, 400, "BAD_REQUEST", "capacity.labels.a"},
		{"another worker", "/worker/nobody/heartbeat", `{}`, 403, "UNAUTHORIZED", ""},
	},
	"admin-heartbeat": {
		{"absent, of a process", "/admin/workers/nobody/heartbeat", `{"session":"s"}`, 404, "NOT_FOUND", ""},
		{"unknown status", "/admin/workers/here/heartbeat", `{"status":"busy"}`, 400, "BAD_REQUEST", "status"},
		{"a name that is none", "/admin/workers/a%20b/heartbeat", `{}`, 400, "BAD_REQUEST", "worker"},
	},
	"renew-leases": {
		{"no session", "/worker/here/leases/renew", `{}`, 400, "BAD_REQUEST", "session"},
		{"empty session", "/worker/here/leases/renew", `{"session":""}`, 400, "BAD_REQUEST", "session"},
		{"another process", "/worker/here/leases/renew", `{"session":"unknown"}`, 409, "CONFLICT", ""},
	},
	"renew-lease": {
		{"no ttl", "/worker/here/leases/x/renew", `{}`, 400, "BAD_REQUEST", "ttl"},
		{"malformed ttl", "/worker/here/leases/x/renew", `{"ttl":"soon"}`, 400, "BAD_REQUEST", "ttl"},
		{"ttl of nothing", "/worker/here/leases/x/renew", `{"ttl":"0s"}`, 400, "BAD_REQUEST", "ttl"},
		{"negative ttl", "/worker/here/leases/x/renew", `{"ttl":"-1s"}`, 400, "BAD_REQUEST", "ttl"},
		{"ttl of days", "/worker/here/leases/x/renew", `{"ttl":"25h"}`, 400, "BAD_REQUEST", "ttl"},
		{"not held", "/worker/here/leases/x/renew", `{"ttl":"30s"}`, 409, "CONFLICT", ""},
	},
	"admin-renew-lease": {
		{"malformed ttl", "/admin/workers/here/leases/x/renew", `{"ttl":"30"}`, 400, "BAD_REQUEST", "ttl"},
		{"not held", "/admin/workers/here/leases/x/renew", `{"ttl":"30s"}`, 409, "CONFLICT", ""},
	},
	"lease":         {{"not held", "/worker/here/leases/x", "", 404, "NOT_FOUND", ""}},
	"delete-worker": {{"absent", "/admin/workers/nobody", "", 404, "NOT_FOUND", ""}},
	"drain-worker":  {{"absent", "/admin/workers/nobody/drain", "", 404, "NOT_FOUND", ""}},
	"resume-worker": {{"absent", "/admin/workers/nobody/resume", "", 404, "NOT_FOUND", ""}},
	"worker-token": {
		{"no worker", "/admin/worker-tokens", `{}`, 400, "BAD_REQUEST", "worker_id"},
		{"malformed worker", "/admin/worker-tokens", `{"worker_id":"a b"}`, 400, "BAD_REQUEST", "worker_id"},
		{"malformed ttl", "/admin/worker-tokens", `{"worker_id":"w","ttl":"5"}`, 400, "BAD_REQUEST", "ttl"},
		{"ttl of nothing", "/admin/worker-tokens", `{"worker_id":"w","ttl":"0s"}`, 400, "BAD_REQUEST", "ttl"},
		{"ttl over the limit", "/admin/worker-tokens", `{"worker_id":"w","ttl":"16m"}`, 400, "BAD_REQUEST", "ttl"},
		{"another's scope", "/admin/worker-tokens", `{"worker_id":"w","scopes":["admin:workers"]}`, 400, "BAD_REQUEST", "scopes"},
		{"unknown audience", "/admin/worker-tokens", `{"worker_id":"w","audience":"all"}`, 400, "BAD_REQUEST", "audience"},
	},
	"join-token": {
		{"malformed pattern", "/admin/join-tokens", `{"worker":"["}`, 400, "BAD_REQUEST", "worker"},
		{"a path", "/admin/join-tokens", `{"worker":"a/b"}`, 400, "BAD_REQUEST", "worker"},
		{"malformed ttl", "/admin/join-tokens", `{"ttl":"1 h"}`, 400, "BAD_REQUEST", "ttl"},
		{"ttl over the limit", "/admin/join-tokens", `{"ttl":"169h"}`, 400, "BAD_REQUEST", "ttl"},
		{"ttl too short", "/admin/join-tokens", `{"ttl":"1ms"}`, 400, "BAD_REQUEST", "ttl"},
	},
	"delete-join-token": {{"absent", "/admin/join-tokens/nothing", "", 404, "NOT_FOUND", ""}},
	"join": {
		{"no token", "/worker/join", `{"worker_id":"w","csr":"x"}`, 400, "BAD_REQUEST", "token"},
		{"no request", "/worker/join", `{"token":"x","worker_id":"w"}`, 400, "BAD_REQUEST", "csr"},
		{"unknown token", "/worker/join", `{"token":"stacyvm-join-v1.00000000000000000000000000000000.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA","worker_id":"w","csr":"x"}`, 401, "UNAUTHORIZED", ""},
		{"malformed token", "/worker/join", `{"token":"x","worker_id":"w","csr":"x"}`, 401, "UNAUTHORIZED", ""},
		{"malformed worker", "/worker/join", `{"token":"x","worker_id":"a/b","csr":"x"}`, 401, "UNAUTHORIZED", ""},
		{"a huge request", "/worker/join", `{"token":"x","worker_id":"w","csr":"` + strings.Repeat("x", 16385) + `"}`, 400, "BAD_REQUEST", "csr"},
	},
	"certificate": {
		{"no request", "/worker/here/certificate", `{}`, 400, "BAD_REQUEST", "csr"},
		{"no certificate", "/worker/here/certificate", `{"csr":"x"}`, 403, "FORBIDDEN", ""},
	},
}
