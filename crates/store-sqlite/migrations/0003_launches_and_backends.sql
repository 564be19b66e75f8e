-- Which backend an instance is on, launches within the last hour, and what a plan permits.

ALTER TABLE instances ADD COLUMN backend TEXT NOT NULL DEFAULT 'docker';
ALTER TABLE accounts ADD COLUMN max_launches_per_hour INTEGER;
ALTER TABLE accounts ADD COLUMN permits TEXT NOT NULL DEFAULT '{"highest_tier":null,"runtimes":[],"backends":[]}';

CREATE TABLE launches (
    launch_id       INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id TEXT NOT NULL,
    at              INTEGER NOT NULL
) STRICT;

CREATE INDEX launches_by_age ON launches (organization_id, at);

-- Roles that one process has at a time.
CREATE TABLE roles (
    role  TEXT PRIMARY KEY NOT NULL,
    owner TEXT NOT NULL,
    until INTEGER NOT NULL
) STRICT;
