-- Why the bare name of a model passes a version over; null: it does not. NAME@N serves it all the same.
ALTER TABLE model_versions ADD COLUMN held TEXT;
