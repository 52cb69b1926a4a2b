-- Jobs that somebody pays for: trainings and choices that were asked for over HTTP.

ALTER TABLE prices ADD COLUMN training_row INTEGER NOT NULL DEFAULT 0;
ALTER TABLE prices ADD COLUMN cpu_second INTEGER NOT NULL DEFAULT 0;

ALTER TABLE ledger_entries ADD COLUMN training_rows INTEGER NOT NULL DEFAULT 0;
ALTER TABLE ledger_entries ADD COLUMN cpu_seconds INTEGER NOT NULL DEFAULT 0;

-- One a job. What is put aside for it stands under its id in reservations, so that it outlives every process; the end of
-- the job writes its entry and gives the rest back in one transaction.
CREATE TABLE job_bills (
    tenant        TEXT    NOT NULL,
    project       TEXT    NOT NULL,
    job           TEXT    NOT NULL PRIMARY KEY,
    api_key       TEXT    NOT NULL,
    route         TEXT    NOT NULL,
    model         TEXT    NOT NULL,       -- whose price holds
    model_version INTEGER NOT NULL,
    price         INTEGER NOT NULL,       -- its version; 0: there was none
    -- The most that it can be.
    most_tokens   INTEGER NOT NULL,
    most_rows     INTEGER NOT NULL,
    most_seconds  INTEGER NOT NULL,
    -- How far it is, as was last noted.
    training_tokens INTEGER NOT NULL,
    training_rows   INTEGER NOT NULL,
    cpu_seconds     INTEGER NOT NULL,
    started_at    INTEGER NOT NULL,
    settled_at    INTEGER
) STRICT;
