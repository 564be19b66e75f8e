-- What the control plane and its tenants know of each other's databases, so that a restored one shows itself.

-- The control plane's own starts over this database, in order. All replicas that run at a time share one.
CREATE TABLE control_plane_incarnations (
    number      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    incarnation uuid NOT NULL UNIQUE,
    -- the highest revision of any organisation's that was given out before
    begins_at   bigint NOT NULL,
    at          timestamptz NOT NULL DEFAULT now()
);

-- How often each replica has looked at this database: where a replica has counted more, rows were put back under it.
CREATE TABLE control_plane_replicas (
    replica   uuid PRIMARY KEY,
    looks     bigint NOT NULL,
    looked_at timestamptz NOT NULL
);

-- The process of each organisation's tenant that is served, or was served last.
CREATE TABLE tenant_sessions (
    organization_id uuid PRIMARY KEY REFERENCES organizations,
    incarnation     uuid NOT NULL,
    address         text NOT NULL,
    until           timestamptz NOT NULL,
    -- the latest of its streams: the end of an older one does not end the session
    stream          uuid,
    -- since when it has no stream open, where the last one has ended: a successor over the same database need not wait then
    left_at         timestamptz,
    -- the workspaces that it runs as recovered after a restore of its own database
    recovered       uuid[] NOT NULL DEFAULT '{}',
    -- the control plane's start with which its tenant has agreed; NULL while they agree anew
    agreed_with     uuid,
    -- when the two agreed first in a start of the control plane's, and in which: deadlines count from then
    agreed_at       timestamptz,
    agreed_first    uuid,
    -- the last agreement that was heard: whose, which one of its process, and whether all of it was
    agreement_of    uuid,
    agreement       bigint NOT NULL DEFAULT 0,
    agreement_ended boolean NOT NULL DEFAULT false
);

-- Wishes that a tenant had still to tell when it agreed: the number of each workspace's last one. Before that is heard, nothing
-- of the workspace is launched.
CREATE TABLE tenant_waiting (
    organization_id uuid NOT NULL REFERENCES organizations,
    workspace_id    uuid NOT NULL,
    intent          bigint NOT NULL,
    -- of an agreement before the one that is being told
    is_old          boolean NOT NULL DEFAULT false,
    PRIMARY KEY (organization_id, workspace_id)
);

CREATE INDEX tenant_waiting_by_workspace ON tenant_waiting (workspace_id);

-- The last wish of each workspace that was refused to a process of its tenant's: a call of it that is heard late is refused as
-- well. Whoever names no process has the name of zeros.
CREATE TABLE tenant_refusals (
    organization_id uuid NOT NULL REFERENCES organizations,
    workspace_id    uuid NOT NULL,
    intent          bigint NOT NULL,
    reason          text NOT NULL,
    message         text NOT NULL,
    at              timestamptz NOT NULL,
    incarnation     uuid NOT NULL,
    PRIMARY KEY (organization_id, workspace_id, incarnation)
);

CREATE INDEX tenant_refusals_by_age ON tenant_refusals (at);

-- How far each process of a tenant was seen to be. At the end of an agreement all but the last 40 are dropped.
CREATE TABLE tenant_standpoints (
    organization_id uuid NOT NULL REFERENCES organizations,
    incarnation     uuid NOT NULL,
    revision        bigint NOT NULL,
    seen_at         timestamptz NOT NULL,
    PRIMARY KEY (organization_id, incarnation)
);
