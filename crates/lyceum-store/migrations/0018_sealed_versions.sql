-- Whether the files of a version are sealed with its project's key: of encrypted projects all that were made there, and none
-- that came from other programs' files.
ALTER TABLE model_versions ADD COLUMN sealed INTEGER NOT NULL DEFAULT 0;
