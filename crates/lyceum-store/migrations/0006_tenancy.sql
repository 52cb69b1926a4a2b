-- Who shares an installation: organisations (the tenants), their people and machines, what these may use, and
-- what was done by whom.
CREATE TABLE organizations (
    tenant     TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    retention  TEXT    NOT NULL CHECK (retention IN ('modified_abuse_monitoring', 'zero_data_retention')),
    created_at INTEGER NOT NULL,
    -- The last entry of the audit log and its hash: an end that was cut off is seen.
    audit_seq  INTEGER NOT NULL,
    audit_hash TEXT    NOT NULL
) STRICT;

INSERT INTO organizations (tenant, name, retention, created_at, audit_seq, audit_hash)
    SELECT DISTINCT tenant, tenant, 'modified_abuse_monitoring', 0, 0, '' FROM projects;

ALTER TABLE projects ADD COLUMN name TEXT NOT NULL DEFAULT '';
ALTER TABLE projects ADD COLUMN archived_at INTEGER;
ALTER TABLE projects ADD COLUMN retention TEXT NOT NULL DEFAULT 'organization_default'
    CHECK (retention IN ('organization_default', 'none', 'modified_abuse_monitoring', 'zero_data_retention'));
-- Null: every model may be asked.
ALTER TABLE projects ADD COLUMN model_mode TEXT CHECK (model_mode IN ('allow_list', 'deny_list'));
-- A JSON array of model ids.
ALTER TABLE projects ADD COLUMN model_ids TEXT NOT NULL DEFAULT '[]';
UPDATE projects SET name = project;

CREATE TABLE users (
    tenant     TEXT    NOT NULL,
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    email      TEXT,
    role       TEXT    NOT NULL CHECK (role IN ('owner', 'reader')),
    is_default INTEGER NOT NULL CHECK (is_default IN (0, 1)),
    added_at   INTEGER NOT NULL,
    UNIQUE (tenant, email),
    FOREIGN KEY (tenant) REFERENCES organizations (tenant)
) STRICT;

CREATE TABLE project_users (
    tenant   TEXT    NOT NULL,
    project  TEXT    NOT NULL,
    user_id  TEXT    NOT NULL,
    role     TEXT    NOT NULL CHECK (role IN ('owner', 'member')),
    added_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, project, user_id),
    FOREIGN KEY (tenant, project) REFERENCES projects (tenant, project),
    FOREIGN KEY (user_id) REFERENCES users (id) ON DELETE CASCADE
) STRICT;

CREATE TABLE service_accounts (
    tenant     TEXT    NOT NULL,
    project    TEXT    NOT NULL,
    id         TEXT    NOT NULL PRIMARY KEY,
    name       TEXT    NOT NULL,
    role       TEXT    NOT NULL CHECK (role IN ('owner', 'member', 'none')),
    created_at INTEGER NOT NULL,
    FOREIGN KEY (tenant, project) REFERENCES projects (tenant, project)
) STRICT;

-- Whose key it is: nobody's (made on the command line), a user's or a service account's. A key outlives its owner
-- as a revoked row, so there is no reference.
ALTER TABLE api_keys ADD COLUMN owner_kind TEXT NOT NULL DEFAULT 'none'
    CHECK (owner_kind IN ('none', 'user', 'service_account'));
ALTER TABLE api_keys ADD COLUMN owner_id TEXT NOT NULL DEFAULT '';
-- What may be shown of the secret; empty for keys that are older than this column.
ALTER TABLE api_keys ADD COLUMN hint TEXT NOT NULL DEFAULT '';

CREATE TABLE admin_keys (
    tenant       TEXT    NOT NULL,
    id           TEXT    NOT NULL PRIMARY KEY,
    name         TEXT    NOT NULL,
    digest       TEXT    NOT NULL UNIQUE,   -- sha256 of the secret, hexadecimal
    hint         TEXT    NOT NULL,
    owner        TEXT    NOT NULL,          -- a user
    scopes       TEXT    NOT NULL,          -- separated by spaces
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER,
    last_used_at INTEGER,
    FOREIGN KEY (tenant) REFERENCES organizations (tenant)
) STRICT;

-- What a project, or one of its keys, may ask of one model or of all together; null: as much as can be asked.
CREATE TABLE rate_limits (
    tenant              TEXT NOT NULL,
    project             TEXT NOT NULL,
    api_key             TEXT NOT NULL,      -- empty: the whole project
    model               TEXT NOT NULL,      -- empty: all models together
    requests_per_minute INTEGER,
    tokens_per_minute   INTEGER,
    requests_per_day    INTEGER,
    concurrent_requests INTEGER,
    PRIMARY KEY (tenant, project, api_key, model),
    FOREIGN KEY (tenant, project) REFERENCES projects (tenant, project)
) STRICT;

-- Rows are added and never changed. hash is sha256 of the canonical JSON of all columns before it, and previous.
CREATE TABLE audit_logs (
    tenant       TEXT    NOT NULL,
    seq          INTEGER NOT NULL,          -- from 1, without gaps
    id           TEXT    NOT NULL UNIQUE,
    effective_at INTEGER NOT NULL,
    type         TEXT    NOT NULL,
    project      TEXT    NOT NULL,          -- empty: the organisation itself
    actor        TEXT    NOT NULL,
    actor_user   TEXT    NOT NULL,
    actor_email  TEXT    NOT NULL,
    resource     TEXT    NOT NULL,
    data         TEXT    NOT NULL,
    previous     TEXT    NOT NULL,
    hash         TEXT    NOT NULL,
    PRIMARY KEY (tenant, seq)
) STRICT;
