-- Who may call, what operators did, and where organisations' networks are.

CREATE TABLE tokens (
    token_id        uuid PRIMARY KEY,
    organization_id uuid NOT NULL REFERENCES organizations,
    name            text NOT NULL,
    -- SHA-256 of the token
    hash            bytea NOT NULL UNIQUE,
    created_at      timestamptz NOT NULL,
    revoked_at      timestamptz
);

CREATE INDEX tokens_by_organization ON tokens (organization_id, token_id);

CREATE TABLE audit_events (
    event_id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at              timestamptz NOT NULL,
    actor           text NOT NULL,
    action          text NOT NULL,
    organization_id uuid,
    message         text NOT NULL
);

CREATE INDEX audit_events_by_organization ON audit_events (organization_id, event_id);
CREATE INDEX audit_events_by_age ON audit_events (at);

-- The subnets given out from the pool, one per organisation.
CREATE TABLE networks (
    organization_id uuid PRIMARY KEY,
    name            text NOT NULL UNIQUE,
    subnet          text NOT NULL UNIQUE,
    gateway         text NOT NULL
);
