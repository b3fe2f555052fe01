//! The change feed as a program that embeds the store has it.

use std::time::Duration;

use cubby::{
    ErrorKind, Store, StoreOptions, Tenant, TenantId,
    tenants::{
        changes::{Change, Changes, End, Why},
        open::feeds::FeedLimits,
    },
};
use tempfile::TempDir;

use super::add;
use crate::harness::blocked::Blocked;

/// A store with the tenant ada.
async fn store(limits: FeedLimits) -> (TempDir, Store, Tenant) {
    let folder = TempDir::new().unwrap();
    let store = Store::open(StoreOptions { feeds: limits, ..StoreOptions::new(folder.path()) }).unwrap();
    let (ada, _) = store.lease_or_create(&"ada".parse::<TenantId>().unwrap()).await.unwrap();
    (folder, store, ada)
}

async fn is_reset(changes: &mut Changes, expected: Why) -> u64 {
    match changes.next().await {
        Change::Reset { seq, why } if why == expected => seq,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_began_before_anybody_listened_is_told_without_its_tables() {
    let (_folder, _store, ada) = store(FeedLimits::default()).await;
    let insert = |conn: &rusqlite::Connection| Ok(conn.execute("INSERT INTO notes VALUES ('a', 'x', 1, 1)", [])?);
    let mut session = ada.begin_write(Duration::from_secs(60)).await.unwrap();
    session.run(insert).await.unwrap();
    let mut changes = ada.changes(None).unwrap();
    assert_eq!(is_reset(&mut changes, Why::Start).await, 0);
    session.commit().await.unwrap();
    assert_eq!(is_reset(&mut changes, Why::Unknown).await, 1);
    add(&ada, "b").await;
    assert_eq!(changes.next().await, Change::Commit { seq: 2, tables: vec!["notes".to_owned()] });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_fails_in_a_shared_commit_names_nothing() {
    let (_folder, _store, ada) = store(FeedLimits::default()).await;
    let mut changes = ada.changes(None).unwrap();
    is_reset(&mut changes, Why::Start).await;
    let blocked = Blocked::start(ada.clone()).await;
    let mut writes = tokio::task::JoinSet::new();
    let (good, bad) = (ada.clone(), ada.clone());
    writes.spawn(async move {
        let insert = |tx: &rusqlite::Transaction| {
            tx.execute("DELETE FROM idempotency_keys", [])?;
            Err(cubby::Error::new(ErrorKind::Conflict, "no"))
        };
        let failed: cubby::Result<()> = bad.write(insert).await;
        failed.unwrap_err();
    });
    writes.spawn(async move { add(&good, "a").await });
    tokio::task::yield_now().await;
    blocked.end().await;
    writes.join_all().await;
    assert_eq!(changes.next().await, Change::Commit { seq: 1, tables: vec!["notes".to_owned()] });
}

#[tokio::test]
async fn a_feed_that_nobody_came_back_to_is_forgotten_and_the_next_one_says_so() {
    let (_folder, store, ada) = store(FeedLimits { keep: Duration::ZERO, ..FeedLimits::default() }).await;
    let mut changes = ada.changes(None).unwrap();
    is_reset(&mut changes, Why::Start).await;
    add(&ada, "a").await;
    let Change::Commit { seq: 1, .. } = changes.next().await else { panic!("no commit") };
    let id = changes.id(1);
    drop(changes);
    add(&ada, "b").await;
    let mut changes = ada.changes(Some(&id)).unwrap();
    is_reset(&mut changes, Why::Missed).await;
    store.end_changes();
    assert_eq!(changes.next().await, Change::End(End::Shutdown));
    assert_eq!(ada.changes(None).err().unwrap().kind(), ErrorKind::Busy);
}
