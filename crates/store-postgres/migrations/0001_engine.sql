-- What the lifecycle engine keeps, for many organisations and many replicas.
--
-- Locks are taken in this order: the instance's row, then the organisation's, which is held as briefly as can be. The row of
-- `launch_numbers` is locked for one statement, outside of any other transaction.

CREATE TABLE settings (
    name  text PRIMARY KEY,
    value text NOT NULL
);

CREATE TABLE organizations (
    organization_id         uuid PRIMARY KEY,
    name                    text NOT NULL DEFAULT '',
    plan                    text NOT NULL DEFAULT '',
    backend                 text NOT NULL DEFAULT '',
    allowed_agent_hosts     text[] NOT NULL DEFAULT '{}',
    standing                text NOT NULL DEFAULT 'Good',
    max_workspaces          bigint,
    max_disk_gib            bigint,
    max_running_workspaces  bigint,
    max_milli_cpus          bigint,
    max_memory_mib          bigint,
    max_launches_per_hour   bigint,
    permits                 text NOT NULL DEFAULT '{"highest_tier":null,"runtimes":[],"backends":[]}',
    used_workspaces         bigint NOT NULL DEFAULT 0,
    used_disk_gib           bigint NOT NULL DEFAULT 0,
    used_running_workspaces bigint NOT NULL DEFAULT 0,
    used_milli_cpus         bigint NOT NULL DEFAULT 0,
    used_memory_mib         bigint NOT NULL DEFAULT 0,
    -- counters of this organisation's own, raised within the transaction that changes something: a sequence's
    -- numbers commit out of order, and a cursor would miss some. They are never behind the clock (microseconds since
    -- 1970), so that what comes after a restore from a backup is above every cursor
    revision                bigint NOT NULL DEFAULT 0,
    events                  bigint NOT NULL DEFAULT 0,
    created_at              timestamptz NOT NULL DEFAULT now(),
    deleted_at              timestamptz
);

-- One row per workspace, so one live generation, and one live launch of it, per workspace.
CREATE TABLE instances (
    workspace_id         uuid PRIMARY KEY,
    organization_id      uuid NOT NULL REFERENCES organizations,
    backend              text NOT NULL,
    desired              text NOT NULL,
    intent               bigint NOT NULL,
    generation           bigint NOT NULL,
    wanted_generation    bigint NOT NULL CHECK (wanted_generation >= generation),
    spec                 text NOT NULL,
    sealed_token         bytea,
    phase                text NOT NULL,
    phase_since          timestamptz NOT NULL,
    reason               text,
    message              text NOT NULL,
    endpoint             text,
    restarts             bigint NOT NULL,
    up_since             timestamptz,
    failures             bigint NOT NULL,
    charge_id            uuid NOT NULL UNIQUE,
    running_counted      boolean NOT NULL,
    revision             bigint NOT NULL,
    due_at               timestamptz,
    attempt_number       bigint,
    attempt_seq          bigint UNIQUE,
    attempt_token        text UNIQUE,
    attempt_state        text,
    attempt_call_until   timestamptz,
    attempt_unsure_until timestamptz,
    attempt_created_at   timestamptz,
    -- where its backend chose to launch it, in the backend's own words
    attempt_placement    text,
    -- the trace of what was last asked for (W3C traceparent); empty where nothing is traced
    trace                text NOT NULL DEFAULT '',
    created_at           timestamptz NOT NULL,
    -- the next step is to launch or start it
    launching            boolean NOT NULL GENERATED ALWAYS AS (
        desired = 'Running' AND generation = wanted_generation AND phase IN ('Admitted', 'Launching')
    ) STORED,
    -- it is to stop, to go, or to give way to another generation
    to_end               boolean NOT NULL GENERATED ALWAYS AS (
        desired <> 'Running' OR generation < wanted_generation
    ) STORED,
    lease_owner          uuid,
    lease_epoch          bigint NOT NULL DEFAULT 0,
    lease_until          timestamptz NOT NULL DEFAULT '1970-01-01 00:00:00Z'
);

CREATE INDEX instances_by_due ON instances (backend, due_at) WHERE due_at IS NOT NULL;
CREATE INDEX instances_leased ON instances (backend) WHERE lease_owner IS NOT NULL;
CREATE INDEX instances_by_revision ON instances (organization_id, revision);

-- What is listed at a backend, and compared with it.
CREATE INDEX instances_by_backend ON instances (backend) WHERE phase <> 'Gone';
CREATE INDEX instances_gone ON instances (phase_since) WHERE phase = 'Gone';

-- The highest launch number: one row. A sequence would jump ahead after a recovery.
CREATE TABLE launch_numbers (
    is_only boolean PRIMARY KEY DEFAULT true CHECK (is_only),
    highest bigint NOT NULL
);

INSERT INTO launch_numbers (highest) VALUES (0);

-- Every launch that this database has begun, and those that it answers for by an operator's word. What carries another
-- number was launched in a time that this database does not hold, and is not removed.
CREATE TABLE launched (
    launch       bigint NOT NULL,
    workspace_id uuid NOT NULL,
    at           timestamptz NOT NULL,
    PRIMARY KEY (launch, workspace_id)
);

CREATE INDEX launched_by_age ON launched (at);

-- While one stands, nothing is removed at its backend. Only an operator ends it.
CREATE TABLE alarms (
    backend   text PRIMARY KEY,
    raised_at timestamptz NOT NULL,
    message   text NOT NULL
);

-- What is billed: it outlives the instance's row.
CREATE TABLE segments (
    organization_id uuid NOT NULL,
    workspace_id uuid NOT NULL,
    generation   bigint NOT NULL,
    from_at      timestamptz NOT NULL,
    until_at     timestamptz CHECK (until_at >= from_at),
    PRIMARY KEY (workspace_id, from_at)
);

CREATE UNIQUE INDEX one_open_segment ON segments (workspace_id) WHERE until_at IS NULL;

CREATE TABLE instance_events (
    organization_id uuid NOT NULL,
    event_id        bigint NOT NULL,
    workspace_id    uuid NOT NULL,
    at              timestamptz NOT NULL,
    kind            text NOT NULL,
    actor           text NOT NULL,
    generation      bigint NOT NULL,
    reason          text,
    message         text NOT NULL,
    exit_code       integer,
    log_tail        text NOT NULL,
    PRIMARY KEY (organization_id, event_id)
);

CREATE INDEX instance_events_by_age ON instance_events (at);

CREATE TABLE launches (
    organization_id uuid NOT NULL,
    at              timestamptz NOT NULL,
    workspace_id    uuid NOT NULL
);

CREATE INDEX launches_by_age ON launches (organization_id, at);
CREATE INDEX launches_to_prune ON launches (at);

-- Roles that one process has at a time.
CREATE TABLE roles (
    role  text PRIMARY KEY,
    owner uuid NOT NULL,
    until timestamptz NOT NULL
);

-- Why machines did not come up, as they told it themselves.
CREATE TABLE boot_reports (
    workspace_id uuid NOT NULL REFERENCES instances ON DELETE CASCADE,
    generation   bigint NOT NULL,
    at           timestamptz NOT NULL DEFAULT now(),
    message      text NOT NULL,
    log_tail     text NOT NULL,
    PRIMARY KEY (workspace_id, generation)
);
