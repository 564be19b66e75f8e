-- What tenant-svc keeps: the customer's intent, its secrets (sealed), and what agents told.

-- `record` is the workspace as it is returned to clients, as JSON; columns beside it are for finding rows.
CREATE TABLE workspaces (
    workspace_id    TEXT PRIMARY KEY NOT NULL,
    organization_id TEXT NOT NULL,
    revision        INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    deleted_at      INTEGER,
    record          TEXT NOT NULL,
    -- config files and secrets, sealed
    private         BLOB NOT NULL,
    -- counts what was asked for; above `forwarded` while the engine has not been told of the last
    intent          INTEGER NOT NULL,
    forwarded       INTEGER NOT NULL,
    -- what to tell the engine, and the bootstrap token that goes with it, sealed
    pending         TEXT,
    pending_token   BLOB,
    -- what to go back to, and the request key to forget, should the engine refuse it
    record_before   TEXT,
    private_before  BLOB,
    pending_request TEXT
) STRICT;

CREATE INDEX workspaces_by_age ON workspaces (organization_id, created_at, workspace_id);
CREATE INDEX workspaces_to_forward ON workspaces (workspace_id) WHERE intent > forwarded;

-- Every change that a watcher sees, whole, for a day.
CREATE TABLE changes (
    organization_id TEXT NOT NULL,
    revision        INTEGER NOT NULL,
    at              INTEGER NOT NULL,
    record          TEXT NOT NULL,
    PRIMARY KEY (organization_id, revision)
) STRICT, WITHOUT ROWID;

CREATE TABLE tenant_state (
    organization_id  TEXT PRIMARY KEY NOT NULL,
    -- the revision that clients see
    revision         INTEGER NOT NULL DEFAULT 0,
    -- changes up to this revision are no longer kept
    forgotten        INTEGER NOT NULL DEFAULT 0,
    -- how far the engine's changes and events have been taken over
    instance_cursor  INTEGER NOT NULL DEFAULT 0,
    event_cursor     INTEGER NOT NULL DEFAULT 0
) STRICT;

CREATE TABLE request_keys (
    organization_id TEXT NOT NULL,
    request_id      TEXT NOT NULL,
    -- of the method and the whole request
    fingerprint     BLOB NOT NULL,
    workspace_id    TEXT NOT NULL,
    at              INTEGER NOT NULL,
    PRIMARY KEY (organization_id, request_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE events (
    event_id        INTEGER PRIMARY KEY AUTOINCREMENT,
    organization_id TEXT NOT NULL,
    workspace_id    TEXT NOT NULL,
    at              INTEGER NOT NULL,
    detail          TEXT NOT NULL
) STRICT;

CREATE INDEX events_by_workspace ON events (workspace_id, event_id);
CREATE INDEX events_by_age ON events (at);

-- The bootstrap token and the credential of each generation: hashes only.
CREATE TABLE credentials (
    workspace_id    TEXT NOT NULL,
    generation      INTEGER NOT NULL,
    token_hash      BLOB NOT NULL UNIQUE,
    -- set when the token is redeemed
    nonce           TEXT,
    credential_hash BLOB UNIQUE,
    -- from its first authenticated use the token is worth nothing
    used_at         INTEGER,
    PRIMARY KEY (workspace_id, generation)
) STRICT, WITHOUT ROWID;

-- The subnets given out from the pool.
CREATE TABLE networks (
    organization_id TEXT PRIMARY KEY NOT NULL,
    name            TEXT NOT NULL UNIQUE,
    subnet          TEXT NOT NULL UNIQUE,
    gateway         TEXT NOT NULL
) STRICT;
