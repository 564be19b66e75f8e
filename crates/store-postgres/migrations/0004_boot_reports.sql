-- Why machines did not come up, as they told it themselves.
CREATE TABLE boot_reports (
    workspace_id uuid NOT NULL REFERENCES instances ON DELETE CASCADE,
    generation   bigint NOT NULL,
    at           timestamptz NOT NULL DEFAULT now(),
    message      text NOT NULL,
    log_tail     text NOT NULL,
    PRIMARY KEY (workspace_id, generation)
);
