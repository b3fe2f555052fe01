CREATE TABLE beds (
    id INTEGER NOT NULL PRIMARY KEY,
    name TEXT NOT NULL UNIQUE
);

CREATE TABLE plants (
    id INTEGER NOT NULL PRIMARY KEY,
    bed_id INTEGER NOT NULL,
    species TEXT NOT NULL,
    height NUMERIC(6, 2),
    planted DATE,
    FOREIGN KEY (bed_id) REFERENCES beds (id) ON DELETE CASCADE
);

CREATE INDEX plants_by_bed ON plants (bed_id);
