-- What a project's texts are looked through for, on the way in and on the way out.
CREATE TABLE guard_policies (
    tenant  TEXT NOT NULL,
    project TEXT NOT NULL,
    policy  TEXT NOT NULL,                  -- a JSON object
    PRIMARY KEY (tenant, project),
    FOREIGN KEY (tenant, project) REFERENCES projects (tenant, project)
) STRICT;
