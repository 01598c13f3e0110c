-- What happened, for subscribers. The number is the order in which commits became visible; where commits do not come one
-- after the other it is given after them.
CREATE TABLE events (
    id         {serial},
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

-- The last number that was given.
CREATE TABLE event_counter (
    one  BIGINT PRIMARY KEY CHECK (one = 1),
    last BIGINT NOT NULL
);
INSERT INTO event_counter (one, last) VALUES (1, 0);
