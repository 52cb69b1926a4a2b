-- What may be learnt from a data set, and what was: by the hash of its file, over all jobs.

CREATE TABLE privacy_budgets (
    tenant      TEXT    NOT NULL,
    project     TEXT    NOT NULL,
    data_sha256 TEXT    NOT NULL,
    epsilon     REAL    NOT NULL,
    delta       REAL    NOT NULL,
    accountant  TEXT    NOT NULL CHECK (accountant IN ('rdp', 'pld')),
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (tenant, project, data_sha256),
    FOREIGN KEY (tenant, project) REFERENCES projects (tenant, project)
) STRICT;

-- One row a job, written before its first step and never removed: a job that fails has spent too, and one
-- that is resumed repeats its noise and spends nothing twice.
CREATE TABLE privacy_spends (
    tenant      TEXT    NOT NULL,
    project     TEXT    NOT NULL,
    data_sha256 TEXT    NOT NULL,
    job         TEXT    NOT NULL,
    q           REAL    NOT NULL,
    sigma       REAL    NOT NULL,
    steps       INTEGER NOT NULL,
    delta       REAL    NOT NULL,
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (tenant, project, data_sha256, job),
    FOREIGN KEY (tenant, project) REFERENCES projects (tenant, project)
) STRICT;
