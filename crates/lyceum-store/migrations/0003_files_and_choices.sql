-- Files that requests bring. The bytes lie in files/ID/ below the data folder.
CREATE TABLE data_files (
    tenant     TEXT    NOT NULL,
    project    TEXT    NOT NULL,
    id         TEXT    NOT NULL PRIMARY KEY,   -- sorts by creation
    name       TEXT    NOT NULL,
    purpose    TEXT    NOT NULL,
    bytes      INTEGER NOT NULL,
    sha256     TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    FOREIGN KEY (tenant, project) REFERENCES projects (tenant, project)
) STRICT;

CREATE INDEX data_files_by_project ON data_files (tenant, project, id);
CREATE INDEX data_files_by_expiry ON data_files (expires_at);

-- What a job does: it trains one model, or chooses among several.
ALTER TABLE jobs ADD COLUMN kind TEXT NOT NULL DEFAULT 'train' CHECK (kind IN ('train', 'choose'));
