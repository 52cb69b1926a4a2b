-- What lies in an object store. `owner` is a version's path, or files/ID; coming/ID while its bytes are on their way; and
-- bucket for the mark by which a prefix belongs to this database. A row is the commit: an object without one is rubbish.
CREATE TABLE blobs (
  owner TEXT NOT NULL,
  path TEXT NOT NULL,
  tenant TEXT NOT NULL,
  project TEXT NOT NULL,
  bytes INTEGER NOT NULL,
  sha256 TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  PRIMARY KEY (owner, path)
) STRICT;
CREATE INDEX blobs_by_sha256 ON blobs (sha256);
