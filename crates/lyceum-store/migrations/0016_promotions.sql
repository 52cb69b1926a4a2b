-- Promotions are events of a name too. What a column may hold is changed by making its table anew.
DROP INDEX model_events_by_name;
ALTER TABLE model_events RENAME TO model_events_before;

CREATE TABLE model_events (
    tenant     TEXT    NOT NULL,
    project    TEXT    NOT NULL,
    id         TEXT    NOT NULL PRIMARY KEY,   -- sorts by creation
    name       TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    kind       TEXT    NOT NULL
        CHECK (kind IN ('approved', 'promoted', 'set', 'rolled_back', 'removed', 'deleted')),
    alias      TEXT,
    before     INTEGER,                        -- where the alias pointed
    actor      TEXT    NOT NULL,
    note       TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    FOREIGN KEY (tenant, project) REFERENCES projects (tenant, project)
) STRICT;

INSERT INTO model_events (tenant, project, id, name, version, kind, alias, before, actor, note, created_at)
    SELECT tenant, project, id, name, version, kind, alias, before, actor, note, created_at FROM model_events_before;
DROP TABLE model_events_before;
CREATE INDEX model_events_by_name ON model_events (tenant, project, name, id);
