-- What the control plane and its tenants know of each other's databases, so that a restored one shows itself.

-- The control plane's own starts over this database, in order. All replicas that run at a time share one.
CREATE TABLE control_plane_incarnations (
    number      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    incarnation uuid NOT NULL UNIQUE,
    -- the highest revision of any organisation's that was given out before
    begins_at   bigint NOT NULL,
    at          timestamptz NOT NULL DEFAULT now()
);

-- The process of each organisation's tenant that is served, or was served last.
CREATE TABLE tenant_sessions (
    organization_id uuid PRIMARY KEY REFERENCES organizations,
    incarnation     uuid NOT NULL,
    address         text NOT NULL,
    until           timestamptz NOT NULL,
    -- the latest of its streams: the end of an older one does not end the session
    stream          uuid,
    -- the workspaces that it runs as recovered after a restore of its own database
    recovered       uuid[] NOT NULL DEFAULT '{}'
);

-- How far each process of a tenant was seen to be; the last 20 of each organisation are kept.
CREATE TABLE tenant_standpoints (
    organization_id uuid NOT NULL REFERENCES organizations,
    incarnation     uuid NOT NULL,
    revision        bigint NOT NULL,
    seen_at         timestamptz NOT NULL,
    PRIMARY KEY (organization_id, incarnation)
);
