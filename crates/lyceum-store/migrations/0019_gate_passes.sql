-- What gates of trainings try is paid for as passes: the most that it can be, and how far it is.
ALTER TABLE job_bills ADD COLUMN most_passes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job_bills ADD COLUMN passes INTEGER NOT NULL DEFAULT 0;
