-- Why a sandbox is not well, beside the reason: a sentence, and since when (0: no cause).
ALTER TABLE sandboxes ADD COLUMN detail TEXT NOT NULL DEFAULT '';
ALTER TABLE sandboxes ADD COLUMN since_us BIGINT NOT NULL DEFAULT 0;
