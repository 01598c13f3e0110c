CREATE TABLE schema_migrations (
		id INTEGER PRIMARY KEY AUTOINCREMENT,
		version_id INTEGER NOT NULL,
		is_applied INTEGER NOT NULL,
		tstamp TIMESTAMP DEFAULT (datetime('now'))
	);
CREATE TABLE cluster (
    one         BIGINT PRIMARY KEY CHECK (one = 1),
    id          TEXT   NOT NULL,
    incarnation BIGINT NOT NULL,
    created_us  BIGINT NOT NULL
, lineage TEXT NOT NULL DEFAULT '');
CREATE TABLE sandboxes (
    id          TEXT    PRIMARY KEY,
    state       TEXT    NOT NULL,
    reason      TEXT    NOT NULL,
    desired     TEXT    NOT NULL,
    provider    TEXT    NOT NULL,
    image       TEXT    NOT NULL,
    spec        TEXT    NOT NULL,
    owner_id    TEXT    NOT NULL,
    tenant_id   TEXT    NOT NULL,
    worker_id   TEXT    NOT NULL,
    incarnation BIGINT  NOT NULL,
    fence       BIGINT  NOT NULL,
    runtime_id  TEXT    NOT NULL,
    recovered   BOOLEAN NOT NULL,
    unenforced  TEXT    NOT NULL,
    metadata    TEXT    NOT NULL,
    created_us  BIGINT  NOT NULL,
    updated_us  BIGINT  NOT NULL,
    expires_us  BIGINT  NOT NULL
);
CREATE INDEX sandboxes_active ON sandboxes (created_us, id) WHERE state <> 'destroyed';
CREATE INDEX sandboxes_owner ON sandboxes (owner_id, created_us, id) WHERE state <> 'destroyed';
CREATE INDEX sandboxes_tenant ON sandboxes (tenant_id, created_us, id) WHERE state <> 'destroyed';
CREATE INDEX sandboxes_worker ON sandboxes (worker_id, created_us, id) WHERE state <> 'destroyed';
CREATE INDEX sandboxes_expiry ON sandboxes (worker_id, expires_us) WHERE state <> 'destroyed';
CREATE TABLE leases (
    resource_id    TEXT   PRIMARY KEY,
    resource_type  TEXT   NOT NULL,
    holder_id      TEXT,
    holder_session TEXT,
    epoch          BIGINT NOT NULL,
    generation     BIGINT NOT NULL,
    expires_us     BIGINT NOT NULL
);
CREATE INDEX leases_holder ON leases (holder_id, resource_id);
CREATE TABLE workers (
    id           TEXT   PRIMARY KEY,
    hostname     TEXT   NOT NULL,
    status       TEXT   NOT NULL,
    session      TEXT   NOT NULL,
    providers    TEXT   NOT NULL,
    capabilities TEXT   NOT NULL,
    capacity     TEXT   NOT NULL,
    heartbeat_us BIGINT NOT NULL,
    created_us   BIGINT NOT NULL,
    updated_us   BIGINT NOT NULL
);
CREATE TABLE operation_audit (
    id         INTEGER PRIMARY KEY,
    actor      TEXT   NOT NULL,
    action     TEXT   NOT NULL,
    sandbox_id TEXT   NOT NULL,
    resource   TEXT   NOT NULL,
    provider   TEXT   NOT NULL,
    status     TEXT   NOT NULL,
    detail     TEXT   NOT NULL,
    tenant_id  TEXT   NOT NULL,
    created_us BIGINT NOT NULL
);
CREATE INDEX operation_audit_sandbox ON operation_audit (sandbox_id, id);
CREATE INDEX operation_audit_tenant ON operation_audit (tenant_id, id);
CREATE INDEX operation_audit_actor ON operation_audit (actor, id);
CREATE TABLE exec_log (
    id          INTEGER PRIMARY KEY,
    sandbox_id  TEXT   NOT NULL,
    process_id  TEXT   NOT NULL,
    command     TEXT   NOT NULL,
    exit_code   BIGINT NOT NULL,
    duration_us BIGINT NOT NULL,
    created_us  BIGINT NOT NULL
);
CREATE INDEX exec_log_sandbox ON exec_log (sandbox_id, id);
CREATE TABLE idempotency_keys (
    scope       TEXT    NOT NULL,
    request_key TEXT    NOT NULL,
    body_hash   TEXT    NOT NULL,
    sandbox_id  TEXT    NOT NULL,
    done        BOOLEAN NOT NULL,
    status      BIGINT  NOT NULL,
    body        BYTEA,
    created_us  BIGINT  NOT NULL,
    PRIMARY KEY (scope, request_key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_us);
CREATE TABLE admin_audit (
    id          INTEGER PRIMARY KEY,
    actor       TEXT   NOT NULL,
    method      TEXT   NOT NULL,
    path        TEXT   NOT NULL,
    status      BIGINT NOT NULL,
    duration_us BIGINT NOT NULL,
    request_id  TEXT   NOT NULL,
    remote_addr TEXT   NOT NULL,
    user_agent  TEXT   NOT NULL,
    tenant_id   TEXT   NOT NULL,
    created_us  BIGINT NOT NULL
);
CREATE INDEX admin_audit_actor ON admin_audit (actor, id);
CREATE INDEX admin_audit_status ON admin_audit (status, id);
CREATE INDEX admin_audit_tenant ON admin_audit (tenant_id, id);
CREATE INDEX admin_audit_age ON admin_audit (created_us);
CREATE TABLE owner_quotas (
    owner_id            TEXT   PRIMARY KEY,
    max_sandboxes       BIGINT NOT NULL,
    max_ttl_us          BIGINT NOT NULL,
    max_exec_timeout_us BIGINT NOT NULL,
    created_us          BIGINT NOT NULL,
    updated_us          BIGINT NOT NULL
);
CREATE TABLE provider_configs (
    name       TEXT    PRIMARY KEY,
    config     TEXT    NOT NULL,
    enabled    BOOLEAN NOT NULL,
    updated_us BIGINT  NOT NULL
);
CREATE TABLE templates (
    name          TEXT   PRIMARY KEY,
    version       BIGINT NOT NULL,
    image         TEXT   NOT NULL,
    provider      TEXT   NOT NULL,
    description   TEXT   NOT NULL,
    setup         TEXT   NOT NULL,
    allowed_hosts TEXT   NOT NULL,
    memory_mb     BIGINT NOT NULL,
    vcpus         BIGINT NOT NULL,
    ttl_us        BIGINT NOT NULL,
    env           TEXT   NOT NULL,
    secrets       TEXT   NOT NULL,
    metadata      TEXT   NOT NULL,
    pool_size     BIGINT NOT NULL,
    created_us    BIGINT NOT NULL,
    updated_us    BIGINT NOT NULL
);
CREATE TABLE environment_specs (
    id              TEXT   PRIMARY KEY,
    owner_id        TEXT   NOT NULL,
    name            TEXT   NOT NULL,
    base_image      TEXT   NOT NULL,
    python_packages TEXT   NOT NULL,
    apt_packages    TEXT   NOT NULL,
    python_version  TEXT   NOT NULL,
    created_us      BIGINT NOT NULL,
    updated_us      BIGINT NOT NULL,
    UNIQUE (owner_id, name)
);
CREATE INDEX environment_specs_owner ON environment_specs (owner_id, created_us, id);
CREATE TABLE environment_builds (
    id               TEXT   PRIMARY KEY,
    spec_id          TEXT   NOT NULL REFERENCES environment_specs (id) ON DELETE CASCADE,
    owner_id         TEXT   NOT NULL,
    status           TEXT   NOT NULL,
    current_step     TEXT   NOT NULL,
    log_text         TEXT   NOT NULL,
    image_size_bytes BIGINT NOT NULL,
    digest_local     TEXT   NOT NULL,
    error            TEXT   NOT NULL,
    created_us       BIGINT NOT NULL,
    finished_us      BIGINT NOT NULL,
    updated_us       BIGINT NOT NULL
);
CREATE INDEX environment_builds_owner ON environment_builds (owner_id, created_us, id);
CREATE INDEX environment_builds_spec ON environment_builds (spec_id, created_us, id);
CREATE TABLE environment_artifacts (
    build_id   TEXT   NOT NULL REFERENCES environment_builds (id) ON DELETE CASCADE,
    target     TEXT   NOT NULL,
    image_ref  TEXT   NOT NULL,
    digest     TEXT   NOT NULL,
    status     TEXT   NOT NULL,
    error      TEXT   NOT NULL,
    created_us BIGINT NOT NULL,
    updated_us BIGINT NOT NULL,
    PRIMARY KEY (build_id, target)
);
CREATE TABLE registry_connections (
    id         TEXT    PRIMARY KEY,
    owner_id   TEXT    NOT NULL,
    provider   TEXT    NOT NULL,
    username   TEXT    NOT NULL,
    secret_ref TEXT    NOT NULL,
    is_default BOOLEAN NOT NULL,
    created_us BIGINT  NOT NULL,
    updated_us BIGINT  NOT NULL,
    UNIQUE (owner_id, provider, username)
);
CREATE INDEX registry_connections_owner ON registry_connections (owner_id, created_us, id);
CREATE TABLE tenants (
    id         TEXT   PRIMARY KEY,
    name       TEXT   NOT NULL,
    owner_id   TEXT   NOT NULL,
    settings   TEXT   NOT NULL,
    created_us BIGINT NOT NULL,
    updated_us BIGINT NOT NULL
);
CREATE TABLE tenant_members (
    tenant_id  TEXT   NOT NULL REFERENCES tenants (id) ON DELETE CASCADE,
    user_id    TEXT   NOT NULL,
    role       TEXT   NOT NULL,
    created_us BIGINT NOT NULL,
    updated_us BIGINT NOT NULL,
    PRIMARY KEY (tenant_id, user_id)
);
CREATE TABLE policies (
    id            TEXT   PRIMARY KEY,
    tenant_id     TEXT   NOT NULL,
    resource_type TEXT   NOT NULL,
    effect        TEXT   NOT NULL,
    pattern       TEXT   NOT NULL,
    priority      BIGINT NOT NULL,
    created_us    BIGINT NOT NULL,
    updated_us    BIGINT NOT NULL
);
CREATE INDEX policies_tenant ON policies (tenant_id, created_us, id);
CREATE TABLE events (
    id         INTEGER PRIMARY KEY,
    number     BIGINT UNIQUE,
    kind       TEXT   NOT NULL,
    sandbox_id TEXT   NOT NULL,
    tenant_id  TEXT   NOT NULL,
    data       TEXT   NOT NULL,
    created_us BIGINT NOT NULL
);
CREATE INDEX events_tenant ON events (tenant_id, number);
CREATE INDEX events_unnumbered ON events (id) WHERE number IS NULL;
CREATE INDEX events_age ON events (created_us, number);
CREATE TABLE event_counter (
    one  BIGINT PRIMARY KEY CHECK (one = 1),
    last BIGINT NOT NULL
);
INSERT INTO schema_migrations VALUES (1, 0, 1, '2026-11-25 08:28:15');
INSERT INTO schema_migrations VALUES (2, 1, 1, '2026-11-25 08:28:15');
INSERT INTO schema_migrations VALUES (3, 2, 1, '2026-11-25 08:28:15');
INSERT INTO schema_migrations VALUES (4, 3, 1, '2026-11-25 08:28:15');
INSERT INTO schema_migrations VALUES (5, 4, 1, '2026-11-25 08:28:15');
INSERT INTO cluster VALUES (1, '00112233445566778899aabbccddeeff', 3, 1700000000000000, '');
INSERT INTO sandboxes VALUES ('sb-111111111111111111111111', 'running', '', 'running', 'gvisor', 'host', '{"image":"host","provider":"gvisor"}', 'ann', 'acme', 'w', 3, 7, 'rt-1', 1, '["cpu"]', '{"purpose":"Prüfung"}', 1700000001000000, 1700000002000000, 4100000000000000);
INSERT INTO sandboxes VALUES ('sb-222222222222222222222222', 'destroyed', 'create_failed', 'destroyed', 'gvisor', 'host', '{}', 'bob', '', 'w', 2, 1, '', 0, 'null', 'null', 1700000000500000, 1700000002000000, 1700000003000000);
INSERT INTO leases VALUES ('sb-111111111111111111111111', 'sandbox', 'w', 's', 7, 12, 1700000030000000);
INSERT INTO leases VALUES ('sb-222222222222222222222222', 'sandbox', NULL, NULL, 1, 2, 1700000003000000);
INSERT INTO workers VALUES ('w', 'host', 'online', 's', '["gvisor"]', '["exec"]', '{"max_sandboxes":5}', 1700000002000000, 1700000000000000, 1700000002000000);
INSERT INTO operation_audit VALUES (1, 'ann', 'sandbox.spawn', 'sb-111111111111111111111111', 'host', 'gvisor', 'ok', '', 'acme', 1700000001000000);
INSERT INTO operation_audit VALUES (2, 'ann', 'exec', 'sb-111111111111111111111111', 'true', 'gvisor', 'ok', '', 'acme', 1700000002000000);
INSERT INTO exec_log VALUES (1, 'sb-111111111111111111111111', 'p1', 'true', -9, 1500, 1700000002000000);
INSERT INTO idempotency_keys VALUES ('s', 'k', 'h', 'sb-111111111111111111111111', 1, 201, 'answer', 4100000000000000);
INSERT INTO event_counter VALUES (1, 0);
