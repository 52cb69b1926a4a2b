-- Batches: how far each is, as the service writes it. Their lines lie in the folder of each.
CREATE TABLE batches (
  id TEXT NOT NULL PRIMARY KEY,
  tenant TEXT NOT NULL,
  project TEXT NOT NULL,
  status TEXT NOT NULL,
  document TEXT NOT NULL
) STRICT;
CREATE INDEX batches_of_project ON batches (tenant, project, id);
CREATE INDEX batches_by_status ON batches (status);
