-- What tenant-svc keeps: the customer's intent, its secrets (sealed), and what agents told.

-- `record` is the workspace as it is returned to clients, as JSON; columns beside it are for finding rows.
CREATE TABLE workspaces (
    workspace_id    TEXT PRIMARY KEY NOT NULL,
    organization_id TEXT NOT NULL,
    revision        INTEGER NOT NULL,
    created_at      INTEGER NOT NULL,
    deleted_at      INTEGER,
    record          TEXT NOT NULL,
    -- each sealed by itself
    config_files    BLOB NOT NULL,
    secrets         BLOB NOT NULL
) STRICT;

CREATE INDEX workspaces_by_age ON workspaces (organization_id, created_at, workspace_id);

-- What the provider has still to be told of a workspace: one row per wish, told in the order of their numbers.
CREATE TABLE outbox (
    workspace_id   TEXT NOT NULL,
    number         INTEGER NOT NULL,
    asked_at       INTEGER NOT NULL,
    entry          TEXT NOT NULL,
    -- the bootstrap token of the generation that it brings, sealed; empty where it brings none
    sealed_token   BLOB NOT NULL,
    -- what a refusal goes back to; NULL where the wish changed neither
    config_files_before BLOB,
    secrets_before BLOB,
    PRIMARY KEY (workspace_id, number)
) STRICT, WITHOUT ROWID;

CREATE INDEX outbox_by_age ON outbox (asked_at, workspace_id);

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
    -- how far the provider's changes and events have been taken over
    instance_cursor  INTEGER NOT NULL DEFAULT 0,
    event_cursor     INTEGER NOT NULL DEFAULT 0,
    -- a change was passed over, as its workspace's document is a newer version's: the next start takes all over anew
    passed_over      INTEGER NOT NULL DEFAULT 0,
    -- the start of this tenant, and that of the provider, that last agreed on all workspaces
    agreed_in        TEXT,
    provider         TEXT
) STRICT;

-- Every start of tenant-svc over this database, with the highest revision that was given out before it.
CREATE TABLE incarnations (
    incarnation TEXT PRIMARY KEY NOT NULL,
    place       INTEGER NOT NULL UNIQUE,
    begins_at   INTEGER NOT NULL,
    started_at  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What the provider had seen of this tenant, its lost starts included, when they last agreed.
CREATE TABLE acknowledged (
    incarnation TEXT PRIMARY KEY NOT NULL,
    revision    INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE request_keys (
    organization_id TEXT NOT NULL,
    request_id      TEXT NOT NULL,
    -- of the method and the whole request
    fingerprint     BLOB NOT NULL,
    workspace_id    TEXT NOT NULL,
    -- whether the request created it: kept for as long as it exists, others for a day
    creates         INTEGER NOT NULL,
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

-- The bootstrap tokens and the credentials of each generation: hashes only. There is one of each, and another where a
-- generation was asked for again after the provider had lost it.
CREATE TABLE credentials (
    workspace_id    TEXT NOT NULL,
    generation      INTEGER NOT NULL,
    token_hash      BLOB PRIMARY KEY NOT NULL,
    -- set when the token is redeemed
    nonce           TEXT,
    credential_hash BLOB UNIQUE,
    -- from its first authenticated use the token is worth nothing
    used_at         INTEGER
) STRICT, WITHOUT ROWID;

CREATE INDEX credentials_by_workspace ON credentials (workspace_id, generation);

-- The subnets given out from the pool.
CREATE TABLE networks (
    organization_id TEXT PRIMARY KEY NOT NULL,
    name            TEXT NOT NULL UNIQUE,
    subnet          TEXT NOT NULL UNIQUE,
    gateway         TEXT NOT NULL
) STRICT;
