-- What a POST with an `Idempotency-Key` made, so that sending it again makes nothing more.
--
-- Beside the notes and not in the catalog: the key and its note are one commit.
CREATE TABLE idempotency_keys (
    key     TEXT    NOT NULL PRIMARY KEY,
    request BLOB    NOT NULL, -- SHA-256 of the request's body
    note    TEXT    NOT NULL, -- the id that was answered
    created INTEGER NOT NULL  -- Unix time in milliseconds, UTC; also the note's
) STRICT, WITHOUT ROWID;

-- Expired keys are found by age.
CREATE INDEX idempotency_keys_by_created ON idempotency_keys (created);
