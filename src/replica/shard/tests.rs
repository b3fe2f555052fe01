use slatedb::object_store::memory::InMemory;

use super::*;
use crate::replica::{
    entry::{Body, Entry},
    format::{CATALOG, entry_key},
    seal::Seal,
};

fn remote() -> Remote {
    Remote::over(Arc::new(InMemory::new()), "memory")
}

fn head(seq: u64) -> Head {
    Head { epoch: 1, seq, ..Head::default() }
}

/// An entry and the head after it.
fn entry(tenant: &str, epoch: u64, seq: u64) -> Vec<(String, Option<Bytes>)> {
    let value = Bytes::from(format!("{tenant} {epoch} {seq}"));
    vec![(entry_key(tenant, epoch, seq), Some(value)), (head_key(tenant), Some(head(seq).encode().into()))]
}

async fn places(source: &Source, tenant: &str, from: Option<(u64, u64)>, to: Option<(u64, u64)>) -> Vec<(u64, u64)> {
    let mut entries = source.entries(tenant, from, to).await.unwrap();
    let mut found = Vec::new();
    while let Some((epoch, seq, value)) = entries.next().await.unwrap() {
        assert_eq!(value, format!("{tenant} {epoch} {seq}"));
        found.push((epoch, seq));
    }
    found
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let remote = remote();
    let shard = Shard::open(&remote, 3, 0).await.unwrap();
    assert_eq!(shard.source().head("ada").await.unwrap(), None);
    shard.write(entry("ada", 1, 1)).await.unwrap();
    shard.write(entry("ada", 1, 2)).await.unwrap();
    shard.write(Vec::new()).await.unwrap();
    assert_eq!(shard.source().head("ada").await.unwrap(), Some(head(2)));
    assert_eq!((shard.stats().flushes, shard.is_usable()), (2, true));
    shard.close().await;

    // Closed in order, and not.
    for seq in 3..5 {
        let shard = Shard::open(&remote, 3, 0).await.unwrap();
        assert_eq!(shard.source().head("ada").await.unwrap(), Some(head(seq - 1)));
        shard.write(entry("ada", 1, seq)).await.unwrap();
    }
    let shard = Shard::open(&remote, 3, 0).await.unwrap();
    assert_eq!(places(&shard.source(), "ada", None, None).await, [(1, 1), (1, 2), (1, 3), (1, 4)]);
    shard.close().await;

    // Another generation, and another shard, have nothing of it.
    for (number, generation) in [(3, 1), (4, 0)] {
        let shard = Shard::open(&remote, number, generation).await.unwrap();
        assert_eq!(shard.source().head("ada").await.unwrap(), None);
        shard.close().await;
    }
}

#[tokio::test]
async fn who_opens_a_shard_fences_who_had_it() {
    let remote = remote();
    let first = Shard::open(&remote, 0, 0).await.unwrap();
    first.write(entry("ada", 1, 1)).await.unwrap();
    let second = Shard::open(&remote, 0, 0).await.unwrap();
    assert!(matches!(first.write(entry("ada", 1, 2)).await, Err(Fault::Fenced)));
    assert!(matches!(first.write(entry("ada", 1, 3)).await, Err(Fault::Fenced)));
    assert!(!first.is_usable());
    first.close().await;
    second.write(entry("ada", 2, 1)).await.unwrap();
    assert_eq!(places(&second.source(), "ada", None, None).await, [(1, 1), (2, 1)]);
    second.close().await;
}

#[tokio::test]
async fn entries_are_read_in_order_and_only_those_asked_for() {
    let remote = remote();
    let shard = Shard::open(&remote, 0, 0).await.unwrap();
    let all = [(1, 1), (1, 2), (1, 16), (1, 17), (256, 1), (256, 2)];
    let batch = |tenant: &'static str| all.iter().rev().flat_map(move |(epoch, seq)| entry(tenant, *epoch, *seq));
    shard.write(["ada", "ada.b", "ad", CATALOG].into_iter().flat_map(batch).collect()).await.unwrap();
    let source = shard.source();
    assert_eq!(places(&source, "ada", None, None).await, all);
    assert_eq!(places(&source, "ada", Some((1, 2)), Some((256, 1))).await, all[1..5]);
    assert_eq!(places(&source, "ada", Some((1, 3)), None).await, all[2..]);
    assert!(places(&source, "ada", Some((2, 0)), Some((1, 0))).await.is_empty());
    assert!(places(&source, "a", None, None).await.is_empty());
    shard.close().await;
}

#[tokio::test]
async fn tenants_come_in_pages() {
    let remote = remote();
    let shard = Shard::open(&remote, 0, 0).await.unwrap();
    let names = [CATALOG, "ad", "ada", "ada+b", "ada.b", "z"];
    shard.write(names.iter().flat_map(|name| entry(name, 1, 1)).collect()).await.unwrap();
    let (source, mut found) = (shard.source(), Vec::<String>::new());
    loop {
        let page = source.tenants(found.last().map(String::as_str), 4).await.unwrap();
        assert!(page.len() <= 4 && page.iter().all(|(_, found)| *found == head(1)));
        if page.is_empty() {
            break;
        }
        found.extend(page.into_iter().map(|(tenant, _)| tenant));
    }
    assert_eq!(found, names);
    shard.close().await;
}

#[tokio::test]
async fn what_is_deleted_is_gone_and_nothing_else_is() {
    let remote = remote();
    let shard = Shard::open(&remote, 0, 0).await.unwrap();
    let batch = (1..=2 * DELETED_AT_ONCE as u64 + 7).flat_map(|seq| entry("ada", 1, seq));
    shard.write(batch.chain(entry("ada.b", 1, 1)).chain(entry("ada", 2, 1)).collect()).await.unwrap();
    let source = shard.source();

    assert_eq!(shard.delete_entries("ada", (1, 3)).await.unwrap(), [""; 0]);
    assert_eq!(places(&source, "ada", None, Some((1, 4))).await, [(1, 3), (1, 4)]);
    shard.delete_entries("ada", (2, 0)).await.unwrap();
    assert_eq!(places(&source, "ada", None, None).await, [(2, 1)]);
    shard.delete_entries("ada", (0, 0)).await.unwrap();
    assert_eq!(source.head("ada").await.unwrap(), Some(head(1)));

    // The object that a long entry needs is named.
    let place = Place { tenant: "ada", epoch: 2, seq: 2 };
    let body = Body::End("x".repeat(5 << 20));
    let long = Entry { previous: [0; 32], time: 1, page_size: 4096, size_pages: 0, body };
    let encoded = long.encode(&place, &Seal::none()).unwrap();
    shard.write(vec![(place.key(), Some(encoded.value))]).await.unwrap();
    assert_eq!(shard.delete_tenant("ada").await.unwrap(), [encoded.big.unwrap().0]);
    assert_eq!((places(&source, "ada", None, None).await, source.head("ada").await.unwrap()), (Vec::new(), None));
    assert_eq!(places(&source, "ada.b", None, None).await, [(1, 1)]);
    shard.close().await;
}

#[tokio::test]
async fn a_reader_has_what_is_durable_and_fences_nobody() {
    let remote = remote();
    assert!(Shard::open_reader(&remote, 0, 0).await.is_err());
    let shard = Shard::open(&remote, 0, 0).await.unwrap();
    shard.write(entry("ada", 1, 1)).await.unwrap();
    let source = Shard::open_reader(&remote, 0, 0).await.unwrap();
    assert_eq!(source.head("ada").await.unwrap(), Some(head(1)));
    assert_eq!(places(&source, "ada", None, None).await, [(1, 1)]);
    assert_eq!(source.tenants(None, 9).await.unwrap(), [("ada".to_owned(), head(1))]);
    shard.write(entry("ada", 1, 2)).await.unwrap();
    shard.close().await;
    let source = Shard::open_reader(&remote, 0, 0).await.unwrap();
    assert_eq!(places(&source, "ada", None, None).await, [(1, 1), (1, 2)]);
}
