use sha2::{Digest, Sha256};
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

/// Where these bytes are in the bucket.
async fn holders(remote: &Remote, bytes: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for object in remote.list("").await.unwrap() {
        // It may be gone since it was listed.
        if let Some(content) = remote.get(&object.path).await.unwrap()
            && memchr::memmem::find(&content, bytes).is_some()
        {
            found.push(object.path);
        }
    }
    found
}

#[tokio::test]
async fn what_was_deleted_leaves_the_bucket_after_a_compaction() {
    let (remote, soon) = (remote(), Duration::from_millis(5));
    let tuning = Tuning {
        look_every: soon,
        compact_every: soon,
        collect_every: soon,
        collect_after: Duration::ZERO,
        compacted_for: soon,
    };
    let shard = Shard::open_with(&remote, 0, 0, &tuning).await.unwrap();
    // No compression makes these shorter.
    let secret = |of: &str| Bytes::copy_from_slice(&Sha256::digest(of));
    let value = |tenant: &str, seq| (entry_key(tenant, 1, seq), Some(secret(&format!("{tenant} {seq}"))));
    let head = (head_key("ada"), Some(head(1).encode().into()));
    shard.write(vec![value("ada", 1), value("grace", 1), head]).await.unwrap();
    shard.compaction().run().await.unwrap();
    shard.write(vec![value("ada", 2)]).await.unwrap();
    for (of, places) in [("ada 1", "/compacted/"), ("ada 2", "/wal/"), ("grace 1", "/compacted/")] {
        let found = holders(&remote, &secret(of)).await;
        assert!(found.iter().any(|path| path.contains(places)), "{of}: {found:?}");
    }

    shard.delete_tenant("ada").await.unwrap();
    assert!(!holders(&remote, &secret("ada 1")).await.is_empty(), "it is only hidden");
    shard.compaction().run().await.unwrap();
    let gone = async {
        for of in ["ada 1", "ada 2"] {
            while !holders(&remote, &secret(of)).await.is_empty() {
                tokio::task::yield_now().await;
            }
        }
    };
    timeout(Duration::from_secs(60), gone).await.unwrap();

    // A shard that has almost nothing is compacted like any other, and nothing else is lost.
    shard.compaction().run().await.unwrap();
    shard.close().await;
    let shard = Shard::open(&remote, 0, 0).await.unwrap();
    let source = shard.source();
    assert_eq!(source.head("ada").await.unwrap(), None);
    let mut entries = source.entries("grace", None, None).await.unwrap();
    assert_eq!(entries.next().await.unwrap(), Some((1, 1, secret("grace 1"))));
    assert!(entries.next().await.unwrap().is_none());
    shard.close().await;
}

#[tokio::test]
async fn nobody_waits_for_the_compaction_of_a_shard_that_was_closed() {
    let remote = remote();
    let shard = Shard::open(&remote, 0, 0).await.unwrap();
    shard.write(entry("ada", 1, 1)).await.unwrap();
    let compaction = shard.compaction();
    shard.close().await;
    assert!(matches!(compaction.run().await, Err(Fault::Away(_))));
}
