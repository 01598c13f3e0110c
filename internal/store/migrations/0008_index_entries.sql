-- Fewer index entries for each change. A change of state touches none: gone is what the indexes ask of it, and due_us, which is
-- no later than expires_us, stays when the time until a sandbox runs is added to that. What most rows leave empty is not indexed
-- when it is empty. {postgres} begins lines that only PostgreSQL knows: they leave room for changes in the rows' own pages, and
-- keep due_us for servers that do not know it and run beside others.
ALTER TABLE sandboxes ADD COLUMN gone BOOLEAN GENERATED ALWAYS AS (state = 'destroyed') {stored};
ALTER TABLE sandboxes ADD COLUMN due_us BIGINT NOT NULL DEFAULT 0;
DROP INDEX sandboxes_active;
DROP INDEX sandboxes_owner;
DROP INDEX sandboxes_tenant;
DROP INDEX sandboxes_worker;
DROP INDEX sandboxes_expiry;
UPDATE sandboxes SET due_us = expires_us;
{postgres}CREATE FUNCTION sandboxes_due() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.due_us := NEW.expires_us; RETURN NEW; END';
{postgres}CREATE TRIGGER sandboxes_due BEFORE UPDATE OF expires_us ON sandboxes FOR EACH ROW WHEN (NEW.expires_us < NEW.due_us) EXECUTE FUNCTION sandboxes_due();
CREATE INDEX sandboxes_active ON sandboxes (created_us, id) WHERE NOT gone;
CREATE INDEX sandboxes_owner ON sandboxes (owner_id, created_us, id) WHERE NOT gone AND owner_id <> '';
CREATE INDEX sandboxes_tenant ON sandboxes (tenant_id, created_us, id) WHERE NOT gone AND tenant_id <> '';
CREATE INDEX sandboxes_worker ON sandboxes (worker_id, created_us, id) WHERE NOT gone;
CREATE INDEX sandboxes_expiry ON sandboxes (worker_id, due_us) WHERE NOT gone;

DROP INDEX leases_holder;
CREATE INDEX leases_holder ON leases (holder_id, resource_id) WHERE holder_id IS NOT NULL;

DROP INDEX operation_audit_tenant;
CREATE INDEX operation_audit_tenant ON operation_audit (tenant_id, id) WHERE tenant_id <> '';

-- Events are purged by their number, which is their order.
DROP INDEX events_age;
DROP INDEX events_tenant;
CREATE INDEX events_tenant ON events (tenant_id, number) WHERE tenant_id <> '' AND number IS NOT NULL;
{postgres}ALTER TABLE events DROP CONSTRAINT events_number_key;
{postgres}CREATE UNIQUE INDEX events_number_key ON events (number) WHERE number IS NOT NULL;

{postgres}ALTER TABLE sandboxes SET (fillfactor = 50);
{postgres}ALTER TABLE leases SET (fillfactor = 70);
{postgres}ALTER TABLE idempotency_keys SET (fillfactor = 30);
