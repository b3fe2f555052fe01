CREATE INDEX entries_by_day ON entries (day);
