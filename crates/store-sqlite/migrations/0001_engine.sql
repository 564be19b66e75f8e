-- What the lifecycle engine keeps. Moments are microseconds since 1970, ids are UUIDs in text.

CREATE TABLE settings (
    name  TEXT PRIMARY KEY NOT NULL,
    value TEXT NOT NULL
) STRICT;

CREATE TABLE accounts (
    organization_id          TEXT PRIMARY KEY NOT NULL,
    standing                 TEXT NOT NULL DEFAULT 'Good',
    max_workspaces           INTEGER,
    max_disk_gib             INTEGER,
    max_running_workspaces   INTEGER,
    max_milli_cpus           INTEGER,
    max_memory_mib           INTEGER,
    max_launches_per_hour    INTEGER,
    -- what the plan permits
    permits                  TEXT NOT NULL DEFAULT '{"highest_tier":null,"runtimes":[],"backends":[]}',
    used_workspaces          INTEGER NOT NULL DEFAULT 0,
    used_disk_gib            INTEGER NOT NULL DEFAULT 0,
    used_running_workspaces  INTEGER NOT NULL DEFAULT 0,
    used_milli_cpus          INTEGER NOT NULL DEFAULT 0,
    used_memory_mib          INTEGER NOT NULL DEFAULT 0,
    -- the organisation's revision: raised within the transaction that changes something
    revision                 INTEGER NOT NULL DEFAULT 0
) STRICT;

-- One row per workspace, so one live generation, and one live launch of it, per workspace.
CREATE TABLE instances (
    workspace_id       TEXT PRIMARY KEY NOT NULL,
    organization_id    TEXT NOT NULL,
    backend            TEXT NOT NULL,
    desired            TEXT NOT NULL,
    intent             INTEGER NOT NULL,
    generation         INTEGER NOT NULL,
    wanted_generation  INTEGER NOT NULL CHECK (wanted_generation >= generation),
    spec               TEXT NOT NULL,
    sealed_token       BLOB,
    phase              TEXT NOT NULL,
    phase_since        INTEGER NOT NULL,
    reason             TEXT,
    message            TEXT NOT NULL,
    endpoint           TEXT,
    restarts           INTEGER NOT NULL,
    up_since           INTEGER,
    failures           INTEGER NOT NULL,
    charge_id          TEXT NOT NULL UNIQUE,
    running_counted    INTEGER NOT NULL,
    revision           INTEGER NOT NULL,
    due_at             INTEGER,
    attempt_number     INTEGER,
    attempt_seq        INTEGER UNIQUE,
    attempt_token      TEXT UNIQUE,
    attempt_state      TEXT,
    attempt_call_until INTEGER,
    attempt_unsure_until INTEGER,
    attempt_created_at INTEGER,
    -- where its backend chose to launch it, in the backend's own words
    attempt_placement  TEXT,
    -- the trace of what was last asked for (W3C traceparent); empty where nothing is traced
    trace              TEXT NOT NULL DEFAULT '',
    created_at         INTEGER NOT NULL,
    lease_owner        TEXT,
    lease_epoch        INTEGER NOT NULL DEFAULT 0,
    lease_until        INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE INDEX instances_by_due ON instances (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX instances_by_revision ON instances (organization_id, revision);

-- What is listed at a backend, and compared with it.
CREATE INDEX instances_by_backend ON instances (backend) WHERE phase <> 'Gone';
CREATE INDEX instances_gone ON instances (phase_since) WHERE phase = 'Gone';

-- Every launch that this database has begun, and those that it answers for by a person's word. What carries another number
-- was launched in a time that this database does not hold, and is not removed.
CREATE TABLE launched (
    launch       INTEGER NOT NULL,
    workspace_id TEXT NOT NULL,
    at           INTEGER NOT NULL,
    PRIMARY KEY (launch, workspace_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX launched_by_age ON launched (at);

-- While one stands, nothing is removed at its backend. Only a person ends it.
CREATE TABLE alarms (
    backend   TEXT PRIMARY KEY NOT NULL,
    raised_at INTEGER NOT NULL,
    message   TEXT NOT NULL
) STRICT;

-- What is billed: it outlives the instance's row.
CREATE TABLE segments (
    organization_id TEXT NOT NULL,
    workspace_id TEXT NOT NULL,
    generation   INTEGER NOT NULL,
    from_at      INTEGER NOT NULL,
    until_at     INTEGER CHECK (until_at >= from_at),
    PRIMARY KEY (workspace_id, from_at)
) STRICT;

CREATE UNIQUE INDEX one_open_segment ON segments (workspace_id) WHERE until_at IS NULL;

CREATE TABLE instance_events (
    event_id        INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    at              INTEGER NOT NULL,
    kind            TEXT NOT NULL,
    actor           TEXT NOT NULL,
    generation      INTEGER NOT NULL,
    reason          TEXT,
    message         TEXT NOT NULL,
    exit_code       INTEGER,
    log_tail        TEXT NOT NULL
) STRICT;

CREATE INDEX instance_events_by_age ON instance_events (at);

-- Launches within the last hour, which a plan may bound.
CREATE TABLE launches (
    launch_id       INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id TEXT NOT NULL,
    at              INTEGER NOT NULL
) STRICT;

CREATE INDEX launches_by_organization ON launches (organization_id, at);
CREATE INDEX launches_by_age ON launches (at);

-- Roles that one process has at a time.
CREATE TABLE roles (
    role  TEXT PRIMARY KEY NOT NULL,
    owner TEXT NOT NULL,
    until INTEGER NOT NULL
) STRICT;
