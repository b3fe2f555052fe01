-- Commits are durable by the log of the data folder from this version on. A program that does not redo it refuses a
-- catalog of this version: it would serve databases that lack acknowledged commits.
UPDATE tenants SET faults = faults WHERE false;
