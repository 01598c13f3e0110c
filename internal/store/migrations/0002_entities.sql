-- Calls of administrative routes.
CREATE TABLE admin_audit (
    id          {serial},
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

-- A build repeats its spec's owner, so that an owner's builds are one walk of one index.
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

-- A policy without a tenant holds for everybody.
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
