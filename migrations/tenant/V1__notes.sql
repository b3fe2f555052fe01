-- The notes of one user.
--
-- Ids are `note_` and sixteen letters, of which the first nine count milliseconds: primary key
-- order is the order of creation, so a page of notes is a range of the one B-tree and an insert
-- appends to its right edge. Without a rowid there is no second tree to keep.
--
-- `created` and `updated` are Unix times in milliseconds, UTC; the two are equal until the first
-- change. (Said here and not beside the columns: SQLite keeps what stands inside the statement and
-- parses it again whenever the file is opened.)
CREATE TABLE notes (
    id      TEXT    NOT NULL PRIMARY KEY,
    text    TEXT    NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
