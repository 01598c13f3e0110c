-- The identity of this database. The row is made at the first open.
CREATE TABLE cluster (
    one         BIGINT PRIMARY KEY CHECK (one = 1),
    id          TEXT   NOT NULL,
    incarnation BIGINT NOT NULL,
    created_us  BIGINT NOT NULL
);

-- Sandboxes; destroyed ones stay as tombstones, out of every index but the first.
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

-- Leases; a released one keeps its row, so that no epoch comes twice.
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
    id         {serial},
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
    id          {serial},
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
