-- One-time tokens with which new workers get their first certificate. Of the secret there is a hash alone.
CREATE TABLE join_tokens (
    id         TEXT   PRIMARY KEY,
    hash       TEXT   NOT NULL,
    worker     TEXT   NOT NULL,
    created_us BIGINT NOT NULL,
    expires_us BIGINT NOT NULL,
    used_us    BIGINT NOT NULL,
    used_by    TEXT   NOT NULL
);
CREATE INDEX join_tokens_age ON join_tokens (created_us, id);
CREATE INDEX join_tokens_expiry ON join_tokens (expires_us);
