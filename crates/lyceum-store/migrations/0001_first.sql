-- Every row has its tenant and project. Times are milliseconds since 1970.

CREATE TABLE projects (
    tenant     TEXT    NOT NULL,
    project    TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, project)
) STRICT;

INSERT INTO projects (tenant, project, created_at) VALUES ('default', 'default', 0);

CREATE TABLE api_keys (
    tenant       TEXT    NOT NULL,
    project      TEXT    NOT NULL,
    id           TEXT    NOT NULL PRIMARY KEY,
    name         TEXT    NOT NULL,
    digest       BLOB    NOT NULL UNIQUE,   -- sha256 of the secret; the secret itself is nowhere
    scopes       TEXT    NOT NULL,          -- separated by spaces
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER,
    last_used_at INTEGER,
    FOREIGN KEY (tenant, project) REFERENCES projects (tenant, project)
) STRICT;

CREATE TABLE models (
    tenant       TEXT    NOT NULL,
    project      TEXT    NOT NULL,
    name         TEXT    NOT NULL,
    next_version INTEGER NOT NULL,          -- a number is never given twice, also after a deletion
    PRIMARY KEY (tenant, project, name),
    FOREIGN KEY (tenant, project) REFERENCES projects (tenant, project)
) STRICT;

CREATE TABLE model_versions (
    tenant     TEXT    NOT NULL,
    project    TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    state      TEXT    NOT NULL CHECK (state IN ('ready', 'deleting')),
    family     TEXT    NOT NULL,
    task       TEXT    NOT NULL,
    n_params   INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,
    sha256     TEXT    NOT NULL,
    path       TEXT    NOT NULL,            -- relative to the data folder
    job        TEXT,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, project, name, version),
    FOREIGN KEY (tenant, project, name) REFERENCES models (tenant, project, name)
) STRICT;

CREATE TABLE model_aliases (
    tenant     TEXT    NOT NULL,
    project    TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    alias      TEXT    NOT NULL,
    version    INTEGER NOT NULL,
    PRIMARY KEY (tenant, project, name, alias),
    FOREIGN KEY (tenant, project, name, version)
        REFERENCES model_versions (tenant, project, name, version) ON DELETE CASCADE
) STRICT;

CREATE TABLE jobs (
    tenant           TEXT    NOT NULL,
    project          TEXT    NOT NULL,
    id               TEXT    NOT NULL PRIMARY KEY,
    state            TEXT    NOT NULL CHECK (state IN ('queued', 'running', 'done', 'failed', 'cancelled')),
    attempt          INTEGER NOT NULL,      -- the fence: only the running attempt may write
    worker           TEXT,
    lease_expires_at INTEGER,
    cancel_requested INTEGER NOT NULL CHECK (cancel_requested IN (0, 1)),
    spec             TEXT    NOT NULL,
    model            TEXT    NOT NULL,
    step             INTEGER NOT NULL,
    steps            INTEGER NOT NULL,
    message          TEXT    NOT NULL,
    outcome          TEXT,                  -- what a finished job answers when it is asked again
    created_at       INTEGER NOT NULL,
    started_at       INTEGER,
    finished_at      INTEGER,
    FOREIGN KEY (tenant, project) REFERENCES projects (tenant, project)
) STRICT;

CREATE INDEX jobs_by_state ON jobs (state, created_at, id);

CREATE TABLE idempotency_keys (
    tenant       TEXT    NOT NULL,
    project      TEXT    NOT NULL,
    key          TEXT    NOT NULL,
    route        TEXT    NOT NULL,
    body_sha256  BLOB    NOT NULL,
    token        TEXT    NOT NULL,          -- of the request that works on it
    status       INTEGER,                   -- null while that request is under way
    content_type TEXT,
    body         BLOB,
    expires_at   INTEGER NOT NULL,
    PRIMARY KEY (tenant, project, key),
    FOREIGN KEY (tenant, project) REFERENCES projects (tenant, project)
) STRICT;

CREATE INDEX idempotency_keys_by_expiry ON idempotency_keys (expires_at);
