//! What is asked often costs the same whatever the number of users: counted in steps of SQLite's own
//! machine, which no fast computer makes fewer.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use cubby::{
    Store, StoreOptions,
    catalog::{
        model::{DeliveryOutcome, State},
        queries::{
            self,
            deliveries::{self, Filter},
            runs,
            search::{self, Cursor, Listing, Sort},
            tombstones,
        },
    },
};
use rusqlite::{Connection, Transaction};

use crate::harness;

/// Users, deliveries, runs and lines of the audit trail; one in ten users is deleted and due to be
/// purged in the far future, a few are due now, a few suspended; a few old deliveries failed.
fn fill(tx: &Transaction, users: i64) -> rusqlite::Result<()> {
    tx.execute_batch(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {users})
         INSERT INTO tenants (id, state, created, deleted, purge_after, email)
         SELECT printf('user_%08d', i), CASE WHEN i % 10 = 0 THEN 'deleted' WHEN i % 97 = 1 AND i < 900 THEN 'suspended' ELSE 'active' END,
                1, CASE WHEN i % 10 = 0 THEN 2 END, CASE WHEN i % 10 = 0 THEN iif(i < 60, 5, 1000000) END,
                printf('%d@example.com', i) FROM n;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {users})
         INSERT INTO deliveries (svix_id, type, tenant, received, updated, outcome, body)
         SELECT printf('msg_%08d', i), 'user.updated', printf('user_%08d', i), i + 1000, i + 1000,
                iif(i < 5, 'failed', 'updated'), x'00' FROM n;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {users})
         INSERT INTO sync_runs (name, started, finished, report) SELECT printf('run_%08d', i), 1, 2, '{{}}' FROM n;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {users})
         INSERT INTO audit (at, actor, action, result) SELECT i, 'a', 'b', 'c' FROM n;"
    ))
}

type Question = (&'static str, fn(&Connection));

fn filter(outcome: Option<DeliveryOutcome>, tenant: Option<&str>) -> Filter {
    Filter { outcome, tenant: tenant.map(|id| id.parse().unwrap()), ..Filter::default() }
}

/// How many tenants are on a page.
fn look(conn: &Connection, text: Option<&str>, sort: Sort, state: Option<State>) -> usize {
    // In the middle of the many that have the same size.
    let cursor = (text.is_none()).then(|| Cursor { key: i64::from(sort == Sort::Created), id: "user_00000800".into() });
    let wanted = Listing { text: text.map(str::to_owned), state, sort, cursor, limit: 50 };
    search::page(conn, &wanted).unwrap().rows.len()
}

/// What requests, the metrics page, the health page and the sweep ask.
const QUESTIONS: &[Question] = &[
    ("counts", |conn| assert!(queries::counts(conn).unwrap().deleted > 0)),
    ("one user", |conn| drop(queries::find(conn, &"user_00000500".parse().unwrap()).unwrap().unwrap())),
    ("whether one may be opened", |conn| {
        drop(queries::access_row(conn, &"user_00000500".parse().unwrap()).unwrap().unwrap())
    }),
    ("a page of users", |conn| assert_eq!(queries::list(conn, None, Some("user_00000500"), 50).unwrap().len(), 50)),
    ("the last page of users", |conn| {
        let sql = "SELECT id FROM tenants ORDER BY id DESC LIMIT 1 OFFSET 50";
        let before: String = conn.query_row(sql, [], |row| row.get(0)).unwrap();
        let wanted = Listing { cursor: Some(Cursor { key: 0, id: before }), limit: 50, ..Listing::default() };
        assert_eq!(search::page(conn, &wanted).unwrap().rows.len(), 50);
    }),
    ("a page of the active", |conn| {
        assert_eq!(queries::list(conn, Some(State::Active), Some("user_00000500"), 50).unwrap().len(), 50)
    }),
    ("a page of the deleted", |conn| {
        assert_eq!(queries::list(conn, Some(State::Deleted), Some("user_00000100"), 50).unwrap().len(), 50)
    }),
    ("the suspended", |conn| assert!(!queries::list(conn, Some(State::Suspended), None, 50).unwrap().is_empty())),
    ("the quarantined, of whom there are none", |conn| {
        assert!(queries::list(conn, Some(State::Quarantined), None, 50).unwrap().is_empty())
    }),
    ("a page of users, largest first", |conn| assert_eq!(look(conn, None, Sort::Size, None), 50)),
    ("a page of users, last used first", |conn| assert_eq!(look(conn, None, Sort::Seen, Some(State::Active)), 50)),
    ("a page of the deleted, newest first", |conn| {
        assert_eq!(look(conn, None, Sort::Created, Some(State::Deleted)), 50)
    }),
    ("a search for what all have", |conn| assert_eq!(look(conn, Some("example.com"), Sort::Id, None), 50)),
    ("a search among the suspended for what all have", |conn| {
        assert_eq!(look(conn, Some("example.com"), Sort::Id, Some(State::Suspended)), 0)
    }),
    ("a search for nobody", |conn| assert_eq!(look(conn, Some("zoe@example.com"), Sort::Id, None), 0)),
    ("a search for the beginning of ids", |conn| assert_eq!(look(conn, Some("us"), Sort::Id, None), 50)),
    ("who is to be purged", |conn| assert_eq!(tombstones::due_for_purge(conn, 10, None, 100).unwrap().len(), 5)),
    ("the newest delivery", |conn| assert!(deliveries::newest(conn).unwrap().is_some())),
    ("failing deliveries", |conn| assert_eq!(deliveries::failing(conn, 0).unwrap(), 4)),
    ("one delivery", |conn| drop(deliveries::find(conn, "msg_00000500").unwrap().unwrap())),
    ("what one was answered", |conn| drop(deliveries::first(conn, "msg_00000500").unwrap().unwrap())),
    ("a page of deliveries", |conn| assert_eq!(deliveries::list(conn, &filter(None, None), 50).unwrap().len(), 50)),
    ("the few that failed, long ago", |conn| {
        assert_eq!(deliveries::list(conn, &filter(Some(DeliveryOutcome::Failed), None), 50).unwrap().len(), 4);
    }),
    ("those of an outcome that there is not", |conn| {
        assert!(deliveries::list(conn, &filter(Some(DeliveryOutcome::Rejected), None), 50).unwrap().is_empty());
    }),
    ("those of one user", |conn| {
        assert_eq!(deliveries::list(conn, &filter(None, Some("user_00000500")), 50).unwrap().len(), 1);
    }),
    ("those of one user that failed", |conn| {
        assert!(
            deliveries::list(conn, &filter(Some(DeliveryOutcome::Updated), Some("user_00000500")), 50).unwrap().len()
                == 1
        );
    }),
    ("the last run", |conn| drop(runs::last(conn).unwrap().unwrap())),
    ("one run", |conn| drop(runs::find(conn, "run_00000500").unwrap().unwrap())),
    ("a page of the audit trail", |conn| assert_eq!(queries::audit::page(conn, i64::MAX, 50).unwrap().len(), 50)),
];

async fn steps(users: i64) -> Vec<u64> {
    let folder = tempfile::TempDir::new().unwrap();
    let store = Store::open(StoreOptions::new(folder.path())).unwrap();
    store.catalog().write(move |tx| fill(tx, users)).await.unwrap();
    let steps = store.catalog().query(|conn| {
        let counted = Arc::new(AtomicU64::new(0));
        let tick = counted.clone();
        conn.progress_handler(1, Some(move || tick.fetch_add(1, Ordering::Relaxed) == u64::MAX))?;
        let steps = QUESTIONS.iter().map(|(_, ask)| {
            counted.store(0, Ordering::Relaxed);
            ask(conn);
            counted.load(Ordering::Relaxed)
        });
        let steps: Vec<u64> = steps.collect();
        conn.progress_handler(0, None::<fn() -> bool>)?;
        Ok(steps)
    });
    let mut steps = steps.await.unwrap();
    // And the sweep of deliveries, a hundred at once.
    let counted = Arc::new(AtomicU64::new(0));
    let tick = counted.clone();
    let swept = store.catalog().write(move |tx| {
        tx.progress_handler(1, Some(move || tick.fetch_add(1, Ordering::Relaxed) == u64::MAX))?;
        let swept = deliveries::delete_before(tx, i64::MAX, 100);
        tx.progress_handler(0, None::<fn() -> bool>)?;
        swept
    });
    assert_eq!(swept.await.unwrap(), 100);
    steps.push(counted.load(Ordering::Relaxed));
    store.close(tokio::time::Instant::now() + harness::PATIENCE).await;
    steps
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_often_takes_as_many_steps_with_thirty_thousand_users_as_with_three_thousand() {
    // A search reads up to 2,000 texts of a common trigram.
    let (few, many) = (steps(3_000).await, steps(30_000).await);
    let names = QUESTIONS.iter().map(|(name, _)| *name).chain(["the sweep of deliveries"]);
    for (name, (few, many)) in names.zip(few.into_iter().zip(many)) {
        assert!(few > 0, "{name}: nothing was counted");
        assert!(many <= few + few / 4 + 20, "{name}: {few} steps with 3,000 users, {many} with 30,000");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_among_few_reads_no_whole_rows_of_the_many_who_match() {
    let steps = steps(3_000).await;
    let of = |wanted: &str| steps[QUESTIONS.iter().position(|(name, _)| *name == wanted).unwrap()];
    // Nine trigrams are counted, up to 2,000 of each, and 2,000 texts compared. Of each of these no more than its state is
    // looked up: a row has over thirty columns.
    let most = 2_000 * 100;
    let found = of("a search among the suspended for what all have");
    assert!(found < most, "{found} steps, and {most} are the most");
}
