//! Merging the index of searches, which keeps the trigrams of removed texts until then.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::Sql;
use crate::catalog::model::Millis;

/// At most this long after its removal, a text's trigrams are in the index, if the server runs: a day.
const EVERY: Millis = 86_400_000;

/// Pages of 4 KB that one step writes. Others write between two steps.
const PAGES: i32 = 16;

/// How many texts were removed since the last merge, if it is time for one.
pub fn due(conn: &Connection, now: Millis) -> Sql<Option<i64>> {
    let sql = "SELECT removed FROM search_merge WHERE removed > 0 AND merged NOT BETWEEN ?1 AND ?2";
    conn.query_row(sql, params![now - EVERY + 1, now], |row| row.get(0)).optional()
}

/// One step of a merge. `false` if there is nothing left to do.
pub fn step(tx: &Transaction, is_first: bool) -> Sql<bool> {
    // A negative number marks all segments for the merge. A step that changes less than two rows did nothing:
    // https://sqlite.org/fts5.html#the_merge_command
    let pages = if is_first { -PAGES } else { PAGES };
    let before = tx.total_changes();
    tx.execute("INSERT INTO tenant_search (tenant_search, rank) VALUES ('merge', ?1)", [pages])?;
    Ok(tx.total_changes() - before >= 2)
}

/// Records a merge that is complete: those who were removed before it began are not in the index any more.
pub fn finish(tx: &Transaction, removed: i64, now: Millis) -> Sql<()> {
    tx.execute("UPDATE search_merge SET removed = removed - ?1, merged = ?2", [removed, now]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Catalog, queries::tombstones};

    const NOW: Millis = 1_800_000_000_000;

    /// Runs in a commit of its own, which makes a segment.
    fn commit<T: Send + 'static>(catalog: &Catalog, work: impl Fn(&Transaction) -> Sql<T> + Send + 'static) -> T {
        catalog.write_blocking(move |tx| work(tx)).unwrap()
    }

    fn insert(tx: &Transaction, n: usize, name: &str) -> Sql<()> {
        let sql = "INSERT INTO tenants (id, state, created, first_name) VALUES (?1, 'active', 1, ?2)";
        tx.execute(sql, params![format!("user_{n:05}"), name]).map(drop)
    }

    fn index_has(catalog: &Catalog, text: &'static str) -> bool {
        let sql = "SELECT count(*) FROM tenant_search_data WHERE instr(block, ?1)";
        catalog.read(|conn| conn.query_row(sql, [text.as_bytes()], |row| row.get::<_, u32>(0))).unwrap() > 0
    }

    fn is_due(catalog: &Catalog, now: Millis) -> Option<i64> {
        catalog.read(|conn| due(conn, now)).unwrap()
    }

    #[test]
    fn what_was_removed_is_in_no_page_after_a_merge() {
        let folder = tempfile::TempDir::new().unwrap();
        let catalog = Catalog::open(&folder.path().join("catalog.sqlite"), None).unwrap();
        for n in 0..60 {
            commit(&catalog, move |tx| (0..50).try_for_each(|i| insert(tx, n * 50 + i, &format!("Ada {n} {i}"))));
        }
        commit(&catalog, |tx| insert(tx, 90_000, "zqxjkv"));
        assert!(index_has(&catalog, "zqx"));
        assert_eq!(is_due(&catalog, NOW), None, "nothing was removed");
        commit(&catalog, |tx| tombstones::anonymize(tx, &"user_90000".parse().unwrap(), 1));
        assert!(index_has(&catalog, "zqx"), "there is nothing to merge");

        let removed = is_due(&catalog, NOW).unwrap();
        let mut steps = 1;
        while commit(&catalog, move |tx| step(tx, steps == 1)) {
            steps += 1;
        }
        commit(&catalog, move |tx| finish(tx, removed, NOW));
        assert!(steps > 2, "all in one step");
        assert!(!index_has(&catalog, "zqx") && !index_has(&catalog, "jkv"));
        assert!(index_has(&catalog, "user") || index_has(&catalog, "use"), "others are gone");
        assert_eq!(is_due(&catalog, NOW + 2 * EVERY), None);

        commit(&catalog, |tx| tx.execute("UPDATE tenants SET first_name = 'Grace' WHERE id = 'user_00000'", []));
        assert_eq!(is_due(&catalog, NOW + EVERY - 1), None, "merged less than a day ago");
        assert_eq!(is_due(&catalog, NOW + EVERY), Some(1));
        assert_eq!(is_due(&catalog, NOW - 1), Some(1), "the clock was set back");
        commit(&catalog, |tx| {
            tx.execute("INSERT INTO tenant_search (tenant_search, rank) VALUES ('integrity-check', 1)", [])
        });
    }
}
