CREATE TABLE admin_audit (
    id bigint NOT NULL,
    actor text NOT NULL,
    method text NOT NULL,
    path text NOT NULL,
    status bigint NOT NULL,
    duration_us bigint NOT NULL,
    request_id text NOT NULL,
    remote_addr text NOT NULL,
    user_agent text NOT NULL,
    tenant_id text NOT NULL,
    created_us bigint NOT NULL
);
ALTER TABLE admin_audit ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME admin_audit_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE cluster (
    one bigint NOT NULL,
    id text NOT NULL,
    incarnation bigint NOT NULL,
    created_us bigint NOT NULL,
    lineage text DEFAULT ''::text NOT NULL,
    CONSTRAINT cluster_one_check CHECK ((one = 1))
);
CREATE TABLE environment_artifacts (
    build_id text NOT NULL,
    target text NOT NULL,
    image_ref text NOT NULL,
    digest text NOT NULL,
    status text NOT NULL,
    error text NOT NULL,
    created_us bigint NOT NULL,
    updated_us bigint NOT NULL
);
CREATE TABLE environment_builds (
    id text NOT NULL,
    spec_id text NOT NULL,
    owner_id text NOT NULL,
    status text NOT NULL,
    current_step text NOT NULL,
    log_text text NOT NULL,
    image_size_bytes bigint NOT NULL,
    digest_local text NOT NULL,
    error text NOT NULL,
    created_us bigint NOT NULL,
    finished_us bigint NOT NULL,
    updated_us bigint NOT NULL
);
CREATE TABLE environment_specs (
    id text NOT NULL,
    owner_id text NOT NULL,
    name text NOT NULL,
    base_image text NOT NULL,
    python_packages text NOT NULL,
    apt_packages text NOT NULL,
    python_version text NOT NULL,
    created_us bigint NOT NULL,
    updated_us bigint NOT NULL
);
CREATE TABLE event_counter (
    one bigint NOT NULL,
    last bigint NOT NULL,
    CONSTRAINT event_counter_one_check CHECK ((one = 1))
);
CREATE TABLE events (
    id bigint NOT NULL,
    number bigint,
    kind text NOT NULL,
    sandbox_id text NOT NULL,
    tenant_id text NOT NULL,
    data text NOT NULL,
    created_us bigint NOT NULL
);
ALTER TABLE events ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE exec_log (
    id bigint NOT NULL,
    sandbox_id text NOT NULL,
    process_id text NOT NULL,
    command text NOT NULL,
    exit_code bigint NOT NULL,
    duration_us bigint NOT NULL,
    created_us bigint NOT NULL
);
ALTER TABLE exec_log ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME exec_log_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE idempotency_keys (
    scope text NOT NULL,
    request_key text NOT NULL,
    body_hash text NOT NULL,
    sandbox_id text NOT NULL,
    done boolean NOT NULL,
    status bigint NOT NULL,
    body bytea,
    created_us bigint NOT NULL
);
CREATE TABLE leases (
    resource_id text NOT NULL,
    resource_type text NOT NULL,
    holder_id text,
    holder_session text,
    epoch bigint NOT NULL,
    generation bigint NOT NULL,
    expires_us bigint NOT NULL
);
CREATE TABLE operation_audit (
    id bigint NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    sandbox_id text NOT NULL,
    resource text NOT NULL,
    provider text NOT NULL,
    status text NOT NULL,
    detail text NOT NULL,
    tenant_id text NOT NULL,
    created_us bigint NOT NULL
);
ALTER TABLE operation_audit ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME operation_audit_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE owner_quotas (
    owner_id text NOT NULL,
    max_sandboxes bigint NOT NULL,
    max_ttl_us bigint NOT NULL,
    max_exec_timeout_us bigint NOT NULL,
    created_us bigint NOT NULL,
    updated_us bigint NOT NULL
);
CREATE TABLE policies (
    id text NOT NULL,
    tenant_id text NOT NULL,
    resource_type text NOT NULL,
    effect text NOT NULL,
    pattern text NOT NULL,
    priority bigint NOT NULL,
    created_us bigint NOT NULL,
    updated_us bigint NOT NULL
);
CREATE TABLE provider_configs (
    name text NOT NULL,
    config text NOT NULL,
    enabled boolean NOT NULL,
    updated_us bigint NOT NULL
);
CREATE TABLE registry_connections (
    id text NOT NULL,
    owner_id text NOT NULL,
    provider text NOT NULL,
    username text NOT NULL,
    secret_ref text NOT NULL,
    is_default boolean NOT NULL,
    created_us bigint NOT NULL,
    updated_us bigint NOT NULL
);
CREATE TABLE sandboxes (
    id text NOT NULL,
    state text NOT NULL,
    reason text NOT NULL,
    desired text NOT NULL,
    provider text NOT NULL,
    image text NOT NULL,
    spec text NOT NULL,
    owner_id text NOT NULL,
    tenant_id text NOT NULL,
    worker_id text NOT NULL,
    incarnation bigint NOT NULL,
    fence bigint NOT NULL,
    runtime_id text NOT NULL,
    recovered boolean NOT NULL,
    unenforced text NOT NULL,
    metadata text NOT NULL,
    created_us bigint NOT NULL,
    updated_us bigint NOT NULL,
    expires_us bigint NOT NULL
);
CREATE TABLE schema_migrations (
    id integer NOT NULL,
    version_id bigint NOT NULL,
    is_applied boolean NOT NULL,
    tstamp timestamp without time zone DEFAULT now() NOT NULL
);
ALTER TABLE schema_migrations ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME schema_migrations_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE templates (
    name text NOT NULL,
    version bigint NOT NULL,
    image text NOT NULL,
    provider text NOT NULL,
    description text NOT NULL,
    setup text NOT NULL,
    allowed_hosts text NOT NULL,
    memory_mb bigint NOT NULL,
    vcpus bigint NOT NULL,
    ttl_us bigint NOT NULL,
    env text NOT NULL,
    secrets text NOT NULL,
    metadata text NOT NULL,
    pool_size bigint NOT NULL,
    created_us bigint NOT NULL,
    updated_us bigint NOT NULL
);
CREATE TABLE tenant_members (
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    role text NOT NULL,
    created_us bigint NOT NULL,
    updated_us bigint NOT NULL
);
CREATE TABLE tenants (
    id text NOT NULL,
    name text NOT NULL,
    owner_id text NOT NULL,
    settings text NOT NULL,
    created_us bigint NOT NULL,
    updated_us bigint NOT NULL
);
CREATE TABLE workers (
    id text NOT NULL,
    hostname text NOT NULL,
    status text NOT NULL,
    session text NOT NULL,
    providers text NOT NULL,
    capabilities text NOT NULL,
    capacity text NOT NULL,
    heartbeat_us bigint NOT NULL,
    created_us bigint NOT NULL,
    updated_us bigint NOT NULL
);
INSERT INTO cluster VALUES (1, '00112233445566778899aabbccddeeff', 3, 1700000000000000, '');
INSERT INTO event_counter VALUES (1, 0);
INSERT INTO exec_log OVERRIDING SYSTEM VALUE VALUES (1, 'sb-111111111111111111111111', 'p1', 'true', -9, 1500, 1700000002000000);
INSERT INTO idempotency_keys VALUES ('s', 'k', 'h', 'sb-111111111111111111111111', true, 201, '\x616e73776572', 4100000000000000);
INSERT INTO leases VALUES ('sb-111111111111111111111111', 'sandbox', 'w', 's', 7, 12, 1700000030000000);
INSERT INTO leases VALUES ('sb-222222222222222222222222', 'sandbox', NULL, NULL, 1, 2, 1700000003000000);
INSERT INTO operation_audit OVERRIDING SYSTEM VALUE VALUES (1, 'ann', 'sandbox.spawn', 'sb-111111111111111111111111', 'host', 'gvisor', 'ok', '', 'acme', 1700000001000000);
INSERT INTO operation_audit OVERRIDING SYSTEM VALUE VALUES (2, 'ann', 'exec', 'sb-111111111111111111111111', 'true', 'gvisor', 'ok', '', 'acme', 1700000002000000);
INSERT INTO sandboxes VALUES ('sb-111111111111111111111111', 'running', '', 'running', 'gvisor', 'host', '{"image":"host","provider":"gvisor"}', 'ann', 'acme', 'w', 3, 7, 'rt-1', true, '["cpu"]', '{"purpose":"Prüfung"}', 1700000001000000, 1700000002000000, 4100000000000000);
INSERT INTO sandboxes VALUES ('sb-222222222222222222222222', 'destroyed', 'create_failed', 'destroyed', 'gvisor', 'host', '{}', 'bob', '', 'w', 2, 1, '', false, 'null', 'null', 1700000000500000, 1700000002000000, 1700000003000000);
INSERT INTO schema_migrations VALUES (1, 0, true, '2026-11-25 08:28:15.31534');
INSERT INTO schema_migrations VALUES (2, 1, true, '2026-11-25 08:28:15.320895');
INSERT INTO schema_migrations VALUES (3, 2, true, '2026-11-25 08:28:15.365816');
INSERT INTO schema_migrations VALUES (4, 3, true, '2026-11-25 08:28:15.425688');
INSERT INTO schema_migrations VALUES (5, 4, true, '2026-11-25 08:28:15.438366');
INSERT INTO workers VALUES ('w', 'host', 'online', 's', '["gvisor"]', '["exec"]', '{"max_sandboxes":5}', 1700000002000000, 1700000000000000, 1700000002000000);
SELECT pg_catalog.setval('admin_audit_id_seq', 1, false);
SELECT pg_catalog.setval('events_id_seq', 1, false);
SELECT pg_catalog.setval('exec_log_id_seq', 1, true);
SELECT pg_catalog.setval('operation_audit_id_seq', 2, true);
SELECT pg_catalog.setval('schema_migrations_id_seq', 5, true);
ALTER TABLE ONLY admin_audit
    ADD CONSTRAINT admin_audit_pkey PRIMARY KEY (id);
ALTER TABLE ONLY cluster
    ADD CONSTRAINT cluster_pkey PRIMARY KEY (one);
ALTER TABLE ONLY environment_artifacts
    ADD CONSTRAINT environment_artifacts_pkey PRIMARY KEY (build_id, target);
ALTER TABLE ONLY environment_builds
    ADD CONSTRAINT environment_builds_pkey PRIMARY KEY (id);
ALTER TABLE ONLY environment_specs
    ADD CONSTRAINT environment_specs_owner_id_name_key UNIQUE (owner_id, name);
ALTER TABLE ONLY environment_specs
    ADD CONSTRAINT environment_specs_pkey PRIMARY KEY (id);
ALTER TABLE ONLY event_counter
    ADD CONSTRAINT event_counter_pkey PRIMARY KEY (one);
ALTER TABLE ONLY events
    ADD CONSTRAINT events_number_key UNIQUE (number);
ALTER TABLE ONLY events
    ADD CONSTRAINT events_pkey PRIMARY KEY (id);
ALTER TABLE ONLY exec_log
    ADD CONSTRAINT exec_log_pkey PRIMARY KEY (id);
ALTER TABLE ONLY idempotency_keys
    ADD CONSTRAINT idempotency_keys_pkey PRIMARY KEY (scope, request_key);
ALTER TABLE ONLY leases
    ADD CONSTRAINT leases_pkey PRIMARY KEY (resource_id);
ALTER TABLE ONLY operation_audit
    ADD CONSTRAINT operation_audit_pkey PRIMARY KEY (id);
ALTER TABLE ONLY owner_quotas
    ADD CONSTRAINT owner_quotas_pkey PRIMARY KEY (owner_id);
ALTER TABLE ONLY policies
    ADD CONSTRAINT policies_pkey PRIMARY KEY (id);
ALTER TABLE ONLY provider_configs
    ADD CONSTRAINT provider_configs_pkey PRIMARY KEY (name);
ALTER TABLE ONLY registry_connections
    ADD CONSTRAINT registry_connections_owner_id_provider_username_key UNIQUE (owner_id, provider, username);
ALTER TABLE ONLY registry_connections
    ADD CONSTRAINT registry_connections_pkey PRIMARY KEY (id);
ALTER TABLE ONLY sandboxes
    ADD CONSTRAINT sandboxes_pkey PRIMARY KEY (id);
ALTER TABLE ONLY schema_migrations
    ADD CONSTRAINT schema_migrations_pkey PRIMARY KEY (id);
ALTER TABLE ONLY templates
    ADD CONSTRAINT templates_pkey PRIMARY KEY (name);
ALTER TABLE ONLY tenant_members
    ADD CONSTRAINT tenant_members_pkey PRIMARY KEY (tenant_id, user_id);
ALTER TABLE ONLY tenants
    ADD CONSTRAINT tenants_pkey PRIMARY KEY (id);
ALTER TABLE ONLY workers
    ADD CONSTRAINT workers_pkey PRIMARY KEY (id);
CREATE INDEX admin_audit_actor ON admin_audit USING btree (actor, id);
CREATE INDEX admin_audit_age ON admin_audit USING btree (created_us);
CREATE INDEX admin_audit_status ON admin_audit USING btree (status, id);
CREATE INDEX admin_audit_tenant ON admin_audit USING btree (tenant_id, id);
CREATE INDEX environment_builds_owner ON environment_builds USING btree (owner_id, created_us, id);
CREATE INDEX environment_builds_spec ON environment_builds USING btree (spec_id, created_us, id);
CREATE INDEX environment_specs_owner ON environment_specs USING btree (owner_id, created_us, id);
CREATE INDEX events_age ON events USING btree (created_us, number);
CREATE INDEX events_tenant ON events USING btree (tenant_id, number);
CREATE INDEX events_unnumbered ON events USING btree (id) WHERE (number IS NULL);
CREATE INDEX exec_log_sandbox ON exec_log USING btree (sandbox_id, id);
CREATE INDEX idempotency_keys_age ON idempotency_keys USING btree (created_us);
CREATE INDEX leases_holder ON leases USING btree (holder_id, resource_id);
CREATE INDEX operation_audit_actor ON operation_audit USING btree (actor, id);
CREATE INDEX operation_audit_sandbox ON operation_audit USING btree (sandbox_id, id);
CREATE INDEX operation_audit_tenant ON operation_audit USING btree (tenant_id, id);
CREATE INDEX policies_tenant ON policies USING btree (tenant_id, created_us, id);
CREATE INDEX registry_connections_owner ON registry_connections USING btree (owner_id, created_us, id);
CREATE INDEX sandboxes_active ON sandboxes USING btree (created_us, id) WHERE (state <> 'destroyed'::text);
CREATE INDEX sandboxes_expiry ON sandboxes USING btree (worker_id, expires_us) WHERE (state <> 'destroyed'::text);
CREATE INDEX sandboxes_owner ON sandboxes USING btree (owner_id, created_us, id) WHERE (state <> 'destroyed'::text);
CREATE INDEX sandboxes_tenant ON sandboxes USING btree (tenant_id, created_us, id) WHERE (state <> 'destroyed'::text);
CREATE INDEX sandboxes_worker ON sandboxes USING btree (worker_id, created_us, id) WHERE (state <> 'destroyed'::text);
ALTER TABLE ONLY environment_artifacts
    ADD CONSTRAINT environment_artifacts_build_id_fkey FOREIGN KEY (build_id) REFERENCES environment_builds(id) ON DELETE CASCADE;
ALTER TABLE ONLY environment_builds
    ADD CONSTRAINT environment_builds_spec_id_fkey FOREIGN KEY (spec_id) REFERENCES environment_specs(id) ON DELETE CASCADE;
ALTER TABLE ONLY tenant_members
    ADD CONSTRAINT tenant_members_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants(id) ON DELETE CASCADE;
