-- Where the database's history runs: a PostgreSQL server and its timeline, which a promotion changes. Empty in SQLite.
ALTER TABLE cluster ADD COLUMN lineage TEXT NOT NULL DEFAULT '';
