-- Trainings that are asked for over HTTP, and those that are paused.

ALTER TABLE jobs ADD COLUMN request TEXT;    -- what was asked, as JSON; NULL: at the command line

-- 'pause': the job is to stop so that it goes on later; a job of state 'cancelled' that has it is paused.
ALTER TABLE jobs ADD COLUMN wish TEXT NOT NULL DEFAULT 'run' CHECK (wish IN ('run', 'pause'));
