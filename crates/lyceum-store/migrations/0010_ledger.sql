-- What work costs, what may be spent, and what was done. Amounts are millionths of the currency.

-- Rows are added and never changed; of those that fit, the newest of the most particular place holds.
CREATE TABLE prices (
    tenant       TEXT    NOT NULL,          -- '*': every organisation
    project      TEXT    NOT NULL,          -- '*': every project
    model        TEXT    NOT NULL,          -- a name; '*': every model
    version      INTEGER NOT NULL PRIMARY KEY,
    input        INTEGER NOT NULL,          -- amounts for a million units
    cached_input INTEGER NOT NULL,
    output       INTEGER NOT NULL,
    training     INTEGER NOT NULL,
    pass         INTEGER NOT NULL,
    created_at   INTEGER NOT NULL
) STRICT;

-- Rows are added and never changed or removed; they outlive projects, keys and models.
CREATE TABLE ledger_entries (
    tenant          TEXT    NOT NULL,
    project         TEXT    NOT NULL,
    request         TEXT    NOT NULL PRIMARY KEY,
    api_key         TEXT    NOT NULL,       -- empty: no key asked
    model           TEXT    NOT NULL,
    model_version   INTEGER NOT NULL,
    route           TEXT    NOT NULL,
    class           TEXT    NOT NULL CHECK (class IN ('interactive', 'batch')),
    outcome         TEXT    NOT NULL CHECK (outcome IN ('completed', 'cancelled', 'timed_out', 'failed', 'interrupted')),
    input_tokens    INTEGER NOT NULL,
    cached_tokens   INTEGER NOT NULL,       -- of the input
    output_tokens   INTEGER NOT NULL,
    training_tokens INTEGER NOT NULL,
    passes          INTEGER NOT NULL,
    price           INTEGER NOT NULL,       -- its version; 0: there was none
    cost            INTEGER NOT NULL,
    started_at      INTEGER NOT NULL,       -- decides the window of budgets
    settled_at      INTEGER NOT NULL        -- decides the bucket of usage
) STRICT;

CREATE INDEX ledger_entries_by_time ON ledger_entries (tenant, settled_at);
CREATE INDEX ledger_entries_by_start ON ledger_entries (tenant, started_at);

-- The most that may be spent: by an organisation (project and key empty), a project (key empty) or a key.
CREATE TABLE budgets (
    tenant       TEXT    NOT NULL,
    project      TEXT    NOT NULL,
    api_key      TEXT    NOT NULL,
    period       TEXT    NOT NULL CHECK (period IN ('month', 'total')),
    id           TEXT    NOT NULL UNIQUE,
    limit_amount INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (tenant, project, api_key, period)
) STRICT;

-- spent is the sum of the entries that began in the window; reserved is the sum of its reservations.
CREATE TABLE budget_windows (
    tenant    TEXT    NOT NULL,
    project   TEXT    NOT NULL,
    budget    TEXT    NOT NULL,
    starts_at INTEGER NOT NULL,
    ends_at   INTEGER NOT NULL,
    spent     INTEGER NOT NULL,
    reserved  INTEGER NOT NULL,
    PRIMARY KEY (budget, starts_at)
) STRICT;

-- What a process has put aside for requests under way; it goes back when the process is gone.
CREATE TABLE reservations (
    tenant    TEXT    NOT NULL,
    project   TEXT    NOT NULL,
    budget    TEXT    NOT NULL,
    starts_at INTEGER NOT NULL,
    owner     TEXT    NOT NULL,
    amount    INTEGER NOT NULL,
    PRIMARY KEY (budget, starts_at, owner)
) STRICT;
