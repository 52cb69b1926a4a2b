-- Which jobs read a data set without noise: no budget holds for them. One row a job and a file, written before its
-- first step and never removed.
CREATE TABLE privacy_unprotected (
    tenant      TEXT    NOT NULL,
    project     TEXT    NOT NULL,
    data_sha256 TEXT    NOT NULL,
    job         TEXT    NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (tenant, project, data_sha256, job),
    FOREIGN KEY (tenant, project) REFERENCES projects (tenant, project)
) STRICT;
