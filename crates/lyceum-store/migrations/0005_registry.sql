-- What happened to the names of models: approvals and moves of aliases. Rows are only ever added.
CREATE TABLE model_events (
    tenant     TEXT    NOT NULL,
    project    TEXT    NOT NULL,
    id         TEXT    NOT NULL PRIMARY KEY,   -- sorts by creation
    name       TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    kind       TEXT    NOT NULL CHECK (kind IN ('approved', 'set', 'rolled_back', 'removed', 'deleted')),
    alias      TEXT,
    before     INTEGER,                        -- where the alias pointed
    actor      TEXT    NOT NULL,
    note       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    FOREIGN KEY (tenant, project) REFERENCES projects (tenant, project)
) STRICT;

CREATE INDEX model_events_by_name ON model_events (tenant, project, name, id);

-- Whether an alias moves to approved versions only.
ALTER TABLE model_aliases ADD COLUMN protected INTEGER NOT NULL DEFAULT 0 CHECK (protected IN (0, 1));
