-- The notes of one user.
--
-- Ids are `note_` and sixteen letters, of which the first nine count milliseconds: primary key
-- order is the order of creation, so a page of notes is a range of the one B-tree and an insert
-- appends to its right edge. Without a rowid there is no second tree to keep.
CREATE TABLE notes (
    id      TEXT    NOT NULL PRIMARY KEY,
    text    TEXT    NOT NULL,
    created INTEGER NOT NULL, -- Unix time in milliseconds, UTC
    updated INTEGER NOT NULL  -- likewise; equal to `created` until the first change
) STRICT, WITHOUT ROWID;
