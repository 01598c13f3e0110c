INSERT INTO cluster (one, id, incarnation, created_us) VALUES (1, '00112233445566778899aabbccddeeff', 3, 1700000000000000);
INSERT INTO sandboxes (id, state, reason, desired, provider, image, spec, owner_id, tenant_id, worker_id, incarnation, fence, runtime_id, recovered, unenforced, metadata, created_us, updated_us, expires_us) VALUES
    ('sb-111111111111111111111111', 'running', '', 'running', 'gvisor', 'host', '{"image":"host","provider":"gvisor"}', 'ann', 'acme', 'w', 3, 7, 'rt-1', TRUE, '["cpu"]', '{"purpose":"Prüfung"}', 1700000001000000, 1700000002000000, 4100000000000000),
    ('sb-222222222222222222222222', 'destroyed', 'create_failed', 'destroyed', 'gvisor', 'host', '{}', 'bob', '', 'w', 2, 1, '', FALSE, 'null', 'null', 1700000000500000, 1700000002000000, 1700000003000000);
INSERT INTO leases (resource_id, resource_type, holder_id, holder_session, epoch, generation, expires_us) VALUES
    ('sb-111111111111111111111111', 'sandbox', 'w', 's', 7, 12, 1700000030000000),
    ('sb-222222222222222222222222', 'sandbox', NULL, NULL, 1, 2, 1700000003000000);
INSERT INTO workers (id, hostname, status, session, providers, capabilities, capacity, heartbeat_us, created_us, updated_us) VALUES
    ('w', 'host', 'online', 's', '["gvisor"]', '["exec"]', '{"max_sandboxes":5}', 1700000002000000, 1700000000000000, 1700000002000000);
INSERT INTO operation_audit (actor, action, sandbox_id, resource, provider, status, detail, tenant_id, created_us) VALUES
    ('ann', 'sandbox.spawn', 'sb-111111111111111111111111', 'host', 'gvisor', 'ok', '', 'acme', 1700000001000000),
    ('ann', 'exec', 'sb-111111111111111111111111', 'true', 'gvisor', 'ok', '', 'acme', 1700000002000000);
INSERT INTO exec_log (sandbox_id, process_id, command, exit_code, duration_us, created_us) VALUES
    ('sb-111111111111111111111111', 'p1', 'true', -9, 1500, 1700000002000000);
INSERT INTO idempotency_keys (scope, request_key, body_hash, sandbox_id, done, status, body, created_us) VALUES
    ('s', 'k', 'h', 'sb-111111111111111111111111', TRUE, 201, 'answer', 4100000000000000);
