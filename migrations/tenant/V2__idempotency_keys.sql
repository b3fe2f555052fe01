-- What a POST with an `Idempotency-Key` made, so that sending it again makes nothing more.
--
-- Beside the notes and not in the catalog: the key and its note are one commit.
--
-- `request` is the SHA-256 of the request's text, `note` the id that was answered, `created` a Unix
-- time in milliseconds, UTC, and also the note's.
CREATE TABLE idempotency_keys (
    key     TEXT    NOT NULL PRIMARY KEY,
    request BLOB    NOT NULL,
    note    TEXT    NOT NULL,
    created INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Expired keys are found by age.
CREATE INDEX idempotency_keys_by_created ON idempotency_keys (created);
