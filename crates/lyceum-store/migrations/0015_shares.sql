-- Models of one project that others may ask too. to_tenant '*': of every organisation; to_project '*': every project.
CREATE TABLE model_shares (
    tenant     TEXT    NOT NULL,
    project    TEXT    NOT NULL,
    name       TEXT    NOT NULL,
    to_tenant  TEXT    NOT NULL,
    to_project TEXT    NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, project, name, to_tenant, to_project),
    FOREIGN KEY (tenant, project, name) REFERENCES models (tenant, project, name)
) STRICT;

CREATE INDEX model_shares_by_name ON model_shares (name, to_tenant, to_project);
